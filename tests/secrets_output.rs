//! What people see of `opsctl secrets`, word for word.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/onepassword/mod.rs"]
mod onepassword;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "support/server.rs"]
mod server;
#[path = "support/vaulted.rs"]
mod vaulted;

use insta::assert_snapshot;
use support::opsctl::{Done, run};
use vaulted::{OLD_CLIENT, Scene};

/// stdout, stderr and the exit code, without what differs from run to run.
fn shown(scene: &Scene, done: &Done) -> String {
    let mut text = format!("{}--- stderr\n{}--- exit {}", done.stdout, done.stderr, done.code);
    for (at, id) in scene.services.iter().enumerate() {
        text = text.replace(id, &format!("<service {at}>"));
    }
    for service in ["openwork", "web"] {
        if let Some((id, _)) = scene.railway.latest(service) {
            text = text.replace(&id, &format!("<deployment of {service}>"));
        }
    }
    let is_time = |word: &str| word.ends_with("ms") || word == "s";
    text.lines()
        .map(|line| line.split(' ').filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

fn text(scene: &Scene, args: &[&str]) -> String {
    shown(scene, &run(scene.text_command(args)))
}

#[test]
fn a_plan() {
    let scene = Scene::new();
    scene.railway.set("web", "OPENWORK_TOKEN", OLD_CLIENT);
    scene.railway.seal("web", "OPENWORK_TOKEN");
    assert_snapshot!(text(&scene, &["plan"]), @r#"
    SERVICE     VARIABLE             ACTION  FROM      TO        NOTE
    openwork    OPENWORK_HOST_TOKEN  create  -         9d875aa0
    openwork    OPENWORK_TOKEN       update  908cfded  514dea72
    openwork    OPENWORK_WORKSPACE   create  -         051f05d7
    openwork    TLS_KEY              create  -         a40be9f6
    web         OPENWORK_TOKEN       sealed  -         514dea72  unknown: no sync has recorded what is in it
    everywhere  SENTRY_DSN           create  -         cbc2c237
    unmanaged, and left as they are: openwork.DATABASE_URL, openwork.PORT
    deploy openwork: its variables change
    deploy web: its variables are newer than what runs
    requests: 5 to 1Password, 16 to Railway, and at most 288 while deployments are waited for
    production: 4 to create, 1 to update, 2 to deploy, 1 sealed and unknown
    --- stderr
    --- exit 0
    "#);
}

#[test]
fn a_sync_and_one_with_nothing_to_do() {
    let scene = Scene::new();
    scene.railway.next_deployment("web", &["BUILDING", "FAILED"]);
    assert_snapshot!(text(&scene, &["sync", "--yes"]), @r#"
    SERVICE     WRITTEN  DELETED  STATUS   DEPLOYMENT
    openwork          4        0  success  <deployment of openwork>
    web               1        0  failed   <deployment of web>
    everywhere        1        0  written  -
    web: the deployment failed; what ran before still runs (look at its log in Railway, then run this again)
    --- stderr
    SERVICE     VARIABLE             ACTION  FROM      TO        NOTE
    openwork    OPENWORK_HOST_TOKEN  create  -         9d875aa0
    openwork    OPENWORK_TOKEN       update  908cfded  514dea72
    openwork    OPENWORK_WORKSPACE   create  -         051f05d7
    openwork    TLS_KEY              create  -         a40be9f6
    web         OPENWORK_TOKEN       update  908cfded  514dea72
    everywhere  SENTRY_DSN           create  -         cbc2c237
    unmanaged, and left as they are: openwork.DATABASE_URL, openwork.PORT
    deploy openwork: its variables change
    deploy web: its variables change
    requests: 5 to 1Password, 18 to Railway, and at most 288 while deployments are waited for
    production: 4 to create, 2 to update, 2 to deploy
    openwork: writing 4 variables
    web: writing 1 variable
    everywhere: writing 1 variable
    openwork: deploying, because its variables are newer than what runs
    web: deploying, because its variables are newer than what runs
    openwork: building
    web: failed
    openwork: deploying
    openwork: success
    --- exit 3
    "#);
    scene.run(&["sync", "--yes"]).ok();
    assert_snapshot!(text(&scene, &["sync"]), @r#"
    production: nothing to do
    --- stderr
    --- exit 0
    "#);
}

#[test]
fn a_verification() {
    let scene = Scene::synced();
    scene.railway.set("web", "OPENWORK_TOKEN", OLD_CLIENT);
    scene.railway.remove("openwork", "OPENWORK_WORKSPACE");
    assert_snapshot!(text(&scene, &["verify"]), @r#"
    CHECK                         STATUS  TIME  SEEN
    openwork.OPENWORK_HOST_TOKEN  ok      0  as in 1Password (9d875aa0)
    openwork.OPENWORK_TOKEN       ok      0  as in 1Password (514dea72)
    openwork.OPENWORK_WORKSPACE   FAILED  0  is missing
    openwork.TLS_KEY              ok      0  as in 1Password (a40be9f6)
    openwork.contract             FAILED  0  required by the profile, and missing: OPENWORK_WORKSPACE, OPENWORK_DATA_DIR, OPENWORK_SIDECAR_DIR, OPENWORK_SERVER_CONFIG, OPENWORK_TOKEN_STORE, XDG_DATA_HOME, XDG_CONFIG_HOME, XDG_STATE_HOME, OPENWORK_ENV_STORE
    web.OPENWORK_TOKEN            FAILED  0  has 908cfded, and 1Password has 514dea72
    everywhere.SENTRY_DSN         ok      0  as in 1Password (cbc2c237)
    openwork.OPENWORK_WORKSPACE: `opsctl secrets sync --target production` writes it
    openwork.contract: map them in the configuration, then `opsctl secrets sync`; `opsctl secrets init` shows how
    web.OPENWORK_TOKEN: `opsctl secrets sync --target production` writes it
    production: differs from what 1Password says
    --- stderr
    --- exit 5
    "#);
}

#[test]
fn a_rotation() {
    let scene = Scene::synced();
    assert_snapshot!(text(&scene, &["rotate", "OPENWORK_HOST_TOKEN", "--dry-run"]), @r#"
    op://Team/openwork/host-token: planned (openwork.OPENWORK_HOST_TOKEN)
    --- stderr
    op://Team/openwork/host-token (openwork.OPENWORK_HOST_TOKEN): gets a new value
    --- exit 0
    "#);
    let server = scene.service();
    let url = format!("http://127.0.0.1:{}", server.port);
    let done = run(scene.text_command(&["rotate", "OPENWORK_HOST_TOKEN", "--yes", "--url", &url]));
    // The new value is another one each time, and so is its fingerprint.
    let text = shown(&scene, &done);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" update ")).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    SERVICE   WRITTEN  DELETED  STATUS   DEPLOYMENT
    openwork        1        0  success  <deployment of openwork>
    CHECK                            STATUS  TIME  SEEN
    OPENWORK_HOST_TOKEN.works        ok      0  `host` is let in
    OPENWORK_HOST_TOKEN.old-refused  ok      0  the old value is refused
    op://Team/openwork/host-token: rotated, and proved (openwork.OPENWORK_HOST_TOKEN)
    --- stderr
    op://Team/openwork/host-token (openwork.OPENWORK_HOST_TOKEN): gets a new value
    1Password: a new version of the item `openwork`
    SERVICE   VARIABLE             ACTION  FROM      TO        NOTE
    openwork: writing 1 variable
    openwork: deploying, because its variables are newer than what runs
    openwork: building
    openwork: deploying
    openwork: success
    1Password: a new version of the item `openwork`
    --- exit 0
    "#);
}
