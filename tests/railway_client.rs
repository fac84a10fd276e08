//! The client of Railway's API against a stand-in that checks every request against Railway's schema.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "railway_client/deletion.rs"]
mod deletion;
#[path = "railway_client/failures.rs"]
mod failures;
#[path = "support/railway/mod.rs"]
mod railway;
#[path = "railway_client/schema.rs"]
mod schema;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;

use opsctl::config::Environment;
use opsctl::providers::railway::{DeploymentStatus, Place, Railway};
use opsctl::secret::Secret;
use opsctl::{Error, ExitCode};
use railway::{FakeRailway, Fault, SHARED};
use serde_json::json;

/// What is said where a project token is refused.
const PROJECT_HINT: &str = "RAILWAY_TOKEN is used, which has to be a project token, for one environment of one project: make one \
                            in the settings of the project, for the environment that the configuration names. The token of an \
                            account or a workspace belongs into RAILWAY_API_TOKEN";

/// A value that must not be seen.
const CANARY: &str = "canary-3f9c\"71\\d0\nb2";

fn client(fake: &FakeRailway) -> Railway {
    with(&fake.variables_for())
}

fn with(variables: &[(&str, String)]) -> Railway {
    try_with(variables).unwrap()
}

fn try_with(variables: &[(&str, String)]) -> Result<Railway, Error> {
    Railway::from_environment(&Environment::fixed(variables.iter().map(|(name, value)| (*name, value.as_str()))))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn place(fake: &FakeRailway, service: Option<&str>) -> Place {
    Place {
        project: fake.project().to_owned(),
        environment: fake.environment().to_owned(),
        service: service.map(str::to_owned),
    }
}

fn values<const N: usize>(values: [(&str, &str); N]) -> BTreeMap<String, Secret> {
    values.map(|(name, value)| (name.to_owned(), Secret::new(value))).into()
}

/// The code and everything that is said, which is nothing that it must not be.
fn told(fake: Option<&FakeRailway>, error: &Error) -> (ExitCode, String) {
    let text = format!("{} | {}", error.full_message(), error.hint_text().unwrap_or_default());
    let everything = format!("{text} {error:?}");
    let tokens = fake.into_iter().flat_map(|fake| [fake.token(), fake.account_token()]);
    for secret in tokens.chain(["canary", "3f9c", "71\\"]) {
        assert!(!everything.contains(secret), "{everything}");
    }
    (error.code(), text)
}

#[test]
fn variables_are_written_beside_others_and_nothing_is_deployed() {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    fake.set("openwork", "OTHER", "${{shared.DOMAIN}}");
    fake.set("openwork", "SEALED", "old");
    fake.seal("openwork", "SEALED");
    let before = fake.updated("openwork", "OTHER");
    let client = client(&fake);
    wait(client.upsert(&place(&fake, Some(&service)), &values([("TOKEN", CANARY), ("SEALED", "new")]))).unwrap();
    assert_eq!(fake.get("openwork", "TOKEN").as_deref(), Some(CANARY));
    assert_eq!(fake.get("openwork", "SEALED").as_deref(), Some("new"));
    assert_eq!(fake.get("openwork", "OTHER").as_deref(), Some("${{shared.DOMAIN}}"));
    assert_eq!(fake.updated("openwork", "OTHER"), before);
    assert_eq!((fake.deploys("openwork"), fake.mutations(), client.requests()), (0, 1, 1));
    let seen = &fake.seen()[0];
    assert!(seen.document.contains("skipDeploys: true"), "{}", seen.document);
    assert!(!seen.document.contains("replace") && !seen.variables.to_string().contains("replace"));
}

#[test]
fn shared_variables_are_those_without_a_service() {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    fake.set("openwork", "NAME", "of the service");
    let client = client(&fake);
    wait(client.upsert(&place(&fake, None), &values([("NAME", "shared by all")]))).unwrap();
    let read = |service| wait(client.variables(&place(&fake, service))).unwrap();
    assert_eq!(read(None)["NAME"].as_ref().map(Secret::expose), Some("shared by all"));
    assert_eq!(read(Some(&service))["NAME"].as_ref().map(Secret::expose), Some("of the service"));
    assert_eq!(fake.get(SHARED, "NAME").as_deref(), Some("shared by all"));
    for seen in &fake.seen()[..2] {
        assert!(seen.variables.get("service").is_none(), "{}", seen.variables);
    }
}

#[test]
fn values_are_read_as_they_were_written_and_sealed_ones_not_at_all() {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    let pem = "-----BEGIN KEY-----\r\nab+/=\n\t\u{0}\u{7f}é漢🦀\"\\\n-----END KEY-----\n";
    for (name, value) in
        [("REFERENCE", "x-${{shared.DOMAIN}}-${{ OTHER }}"), ("PEM", pem), ("EMPTY", ""), ("SEALED", CANARY)]
    {
        fake.set("openwork", name, value);
    }
    fake.seal("openwork", "SEALED");
    let read = wait(client(&fake).variables(&place(&fake, Some(&service)))).unwrap();
    let value = |name: &str| read[name].as_ref().map(|value| value.expose().to_owned());
    assert_eq!(value("REFERENCE").unwrap(), "x-${{shared.DOMAIN}}-${{ OTHER }}");
    assert_eq!(value("PEM").unwrap(), pem);
    assert_eq!(value("EMPTY").unwrap(), "");
    assert_eq!(value("SEALED"), None);
    assert_eq!(read.get("ABSENT").map(|_| ()), None);
    assert_eq!(value("RAILWAY_SERVICE_NAME").unwrap(), "openwork");
    assert!(!format!("{read:?}").contains("BEGIN"));
}

#[test]
fn the_state_of_an_environment_is_read_over_all_pages() {
    let fake = FakeRailway::start();
    for name in ["a", "b", "c", "d", "e"] {
        fake.service(name);
    }
    for at in 0..7 {
        fake.set("a", &format!("A{at}"), CANARY);
    }
    fake.set("e", "SEALED", CANARY);
    fake.seal("e", "SEALED");
    fake.set(SHARED, "S", CANARY);
    fake.run("b");
    fake.add_environment("staging");
    fake.service("staging/elsewhere");
    let client = client(&fake);
    let at_once = wait(client.state(fake.project(), fake.environment())).unwrap();
    assert_eq!(client.requests(), 1);
    fake.set_page(2);
    let paged = wait(client.state(fake.project(), fake.environment())).unwrap();
    // Nine variables, two at a time.
    assert_eq!(client.requests(), 1 + 5);
    assert_eq!(format!("{at_once:?}"), format!("{paged:?}"));

    assert_eq!(paged.name, "production");
    let names = paged.services.iter().map(|service| service.name.as_str()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names, ["a", "b", "c", "d", "e"].into());
    let service = |name| paged.services.iter().find(|service| service.name == name).unwrap();
    assert!(service("a").latest.is_none());
    let latest = service("b").latest.as_ref().unwrap();
    assert_eq!((&latest.id, latest.status), (&fake.latest("b").unwrap().0, DeploymentStatus::Success));
    let variable = |name| paged.variables.iter().find(|variable| variable.name == name).unwrap();
    assert_eq!(paged.variables.len(), 9);
    assert_eq!((variable("SEALED").is_sealed, &variable("SEALED").service), (true, &Some(service("e").id.clone())));
    assert_eq!((variable("S").is_sealed, &variable("S").service), (false, &None));
    assert_eq!(variable("A6").updated, fake.updated("a", "A6"));
    assert!(variable("A6").updated > variable("A5").updated && latest.created > variable("S").updated);
    assert!(!fake.seen().iter().any(|seen| seen.variables.to_string().contains("null")));
}

#[test]
fn a_list_that_never_ends_is_not_read_for_ever() {
    let fake = FakeRailway::start();
    let page = |cursor| {
        let list = json!({ "edges": [], "pageInfo": { "hasNextPage": true, "endCursor": cursor } });
        let end = json!({ "edges": [], "pageInfo": { "hasNextPage": false, "endCursor": null } });
        json!({ "data": { "environment": { "name": "x", "variables": list, "serviceInstances": end } } })
    };
    for cursor in [json!(null), json!("same")] {
        fake.fail("environment", 2, Fault::Answer(page(cursor)));
        let error = wait(client(&fake).state(fake.project(), fake.environment())).unwrap_err();
        assert_eq!(told(Some(&fake), &error).1, "Railway says that a list goes on, and not where | ");
        fake.heal();
    }
    assert_eq!(fake.count("environment"), 1 + 2);
}

#[test]
fn a_deployment_is_asked_for_once_and_its_way_is_seen() {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    fake.set("openwork", "URL", "https://${{shared.DOMAIN}}/${{openwork.PATH}}${{NONE}}");
    fake.set("openwork", "PATH", "p");
    fake.set(SHARED, "DOMAIN", "example.com");
    let client = client(&fake);
    let id = wait(client.deploy(fake.environment(), &service)).unwrap();
    assert_eq!(fake.deploys("openwork"), 1);
    fake.set("openwork", "PATH", "too late");
    let mut way = Vec::new();
    while way.last() != Some(&DeploymentStatus::Success) {
        assert!(fake.running("openwork").is_empty());
        way.push(wait(client.deployment(&id)).unwrap());
    }
    assert_eq!(way, [DeploymentStatus::Building, DeploymentStatus::Deploying, DeploymentStatus::Success]);
    assert_eq!(fake.running("openwork")["URL"], "https://example.com/p");
}

#[test]
fn every_status_is_understood_and_an_unknown_one_is_no_failure() {
    use DeploymentStatus::*;
    let all = [
        ("BUILDING", Building),
        ("CRASHED", Crashed),
        ("DEPLOYING", Deploying),
        ("FAILED", Failed),
        ("INITIALIZING", Initializing),
        ("NEEDS_APPROVAL", NeedsApproval),
        ("QUEUED", Queued),
        ("REMOVED", Removed),
        ("REMOVING", Removing),
        ("SKIPPED", Skipped),
        ("SLEEPING", Sleeping),
        ("SUCCESS", Success),
        ("WAITING", Waiting),
        ("HIBERNATING", Unknown),
    ];
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    let client = client(&fake);
    for (text, status) in all {
        fake.next_deployment("openwork", &[text]);
        let id = wait(client.deploy(fake.environment(), &service)).unwrap();
        assert_eq!(wait(client.deployment(&id)).unwrap(), status);
        let state = wait(client.state(fake.project(), fake.environment())).unwrap();
        assert_eq!(state.services[0].latest.as_ref().map(|latest| latest.status), Some(status));
    }
}

#[test]
fn a_token_is_for_the_environment_that_is_configured_or_refused() {
    let fake = FakeRailway::start();
    let (project, production) = (fake.project().to_owned(), fake.environment().to_owned());
    let staging = fake.add_environment("staging");
    let foreign = fake.add_environment_of("another-project", "foreign");
    let url = fake.url();
    let by = |name, token: &str| with(&[("OPSCTL_RAILWAY_URL", url.clone()), (name, token.to_owned())]);
    let of_project = by("RAILWAY_TOKEN", fake.token());
    let of_account = by("RAILWAY_API_TOKEN", fake.account_token());
    for client in [&of_project, &of_account] {
        wait(client.check_scope(&project, &production)).unwrap();
        assert_eq!(client.requests(), 1);
    }
    wait(of_account.check_scope(&project, &staging)).unwrap();

    let refused = |client: &Railway, project: &str, environment: &str| {
        let (code, text) = told(Some(&fake), &wait(client.check_scope(project, environment)).unwrap_err());
        assert_eq!(code, ExitCode::Denied, "{text}");
        text
    };
    assert_eq!(
        refused(&by("RAILWAY_TOKEN", &fake.token_for(&staging)), &project, &production),
        format!(
            "the project token is for environment {staging} of project {project}, and the configuration names environment \
             {production} of project {project} | give RAILWAY_TOKEN the token of the environment that is meant, or correct the \
             configuration"
        )
    );
    assert!(refused(&of_project, "another-project", &production).starts_with("the project token is for environment"));
    assert_eq!(
        refused(&of_account, "another-project", &staging),
        format!(
            "environment {staging} is one of project {project}, and the configuration names project another-project | correct \
             the ids in the configuration"
        )
    );
    let not_authorized = format!(
        "cannot see what the token is for at Railway: the token was refused: Not Authorized (INTERNAL_SERVER_ERROR, trace {}) | \
         RAILWAY_API_TOKEN is used, the token of an account or a workspace: it needs access to the project. A project token in \
         RAILWAY_TOKEN is enough, and can do less harm",
        railway::TRACE
    );
    assert_eq!(refused(&of_account, &project, &foreign), not_authorized);
    assert_eq!(refused(&by("RAILWAY_API_TOKEN", "unknown"), &project, &production), not_authorized);
    // The one kind is not taken for the other.
    assert_eq!(refused(&by("RAILWAY_API_TOKEN", fake.token()), &project, &production), not_authorized);
    fake.revoke(fake.token());
    assert_eq!(
        refused(&of_project, &project, &production),
        format!(
            "cannot see what the token is for at Railway: the token was refused: Project Token not found \
             (INTERNAL_SERVER_ERROR, trace {}) | {PROJECT_HINT}",
            railway::TRACE
        )
    );
    assert_eq!(fake.mutations(), 0);
}

#[test]
fn a_request_says_who_asks_and_the_project_token_comes_first() {
    let fake = FakeRailway::start();
    let both = [
        ("OPSCTL_RAILWAY_URL", fake.url()),
        ("RAILWAY_TOKEN", fake.token().to_owned()),
        ("RAILWAY_API_TOKEN", fake.account_token().to_owned()),
    ];
    for variables in [&both[..], &[both[0].clone(), both[2].clone()], &[both[0].clone(), both[1].clone()]] {
        wait(with(variables).variables(&place(&fake, None))).unwrap();
    }
    let header = |at: usize, name: &str| fake.seen()[at].headers.get(name).cloned();
    for at in [0, 2] {
        assert_eq!(header(at, "project-access-token").as_deref(), Some(fake.token()));
        assert_eq!(header(at, "authorization"), None);
    }
    assert_eq!(header(1, "authorization"), Some(format!("Bearer {}", fake.account_token())));
    assert_eq!(header(1, "project-access-token"), None);
    assert_eq!(header(1, "user-agent"), Some(format!("opsctl/{}", env!("CARGO_PKG_VERSION"))));
    assert!(fake.seen().iter().all(|seen| seen.query == "source=opsctl"));
    let shown = format!("{:?}", with(&both));
    assert!(!shown.contains(fake.token()) && shown.contains("source=opsctl"), "{shown}");
}

#[test]
fn without_a_token_or_with_an_end_point_that_is_none_nothing_is_sent() {
    let refused = |variables: &[(&str, &str)]| {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let (code, text) = told(None, &try_with(&variables).unwrap_err());
        assert!(!text.contains("hunter2"), "{text}");
        (code, text)
    };
    let (code, text) = refused(&[("RAILWAY_TOKEN", "")]);
    assert_eq!((code, text.contains("set RAILWAY_TOKEN to a project token")), (ExitCode::Denied, true), "{text}");
    for url in [
        "http://railway.example/graphql/v2",
        "http://10.0.0.1/graphql/v2",
        "https://me:hunter2@railway.example/graphql/v2",
        "https://railway.example/graphql/v2?source=hunter2",
        "ftp://railway.example",
        "hunter2",
    ] {
        let (code, text) = refused(&[("RAILWAY_TOKEN", "hunter2"), ("OPSCTL_RAILWAY_URL", url)]);
        assert_eq!(code, ExitCode::Usage, "{text}");
        assert!(text.contains("OPSCTL_RAILWAY_URL"), "{text}");
    }
    let (code, text) = refused(&[("RAILWAY_TOKEN", "hunter2\n")]);
    assert_eq!((code, text.contains("RAILWAY_TOKEN is none that can be sent")), (ExitCode::Usage, true), "{text}");
    for url in ["https://railway.example/graphql/v2", "http://localhost:1", "http://[::1]:1/x"] {
        try_with(&[("RAILWAY_TOKEN", "t".to_owned()), ("OPSCTL_RAILWAY_URL", url.to_owned())]).unwrap();
    }
    let shown = format!("{:?}", with(&[("RAILWAY_TOKEN", "t".to_owned())]));
    assert!(shown.contains("https://backboard.railway.com/graphql/v2?source=opsctl"), "{shown}");
}
