//! `profile`: the built-in contracts say what their systems need, and a contract of one's own is checked to the line.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use opsctl::config::Profile;
use opsctl::config::profile::{Need, Service, Shape, Source};
use serde_json::Value;
use support::TestDir;
use support::opsctl::{Done, run};

fn profile(args: &[&str]) -> Done {
    let mut command = support::opsctl_process();
    command.arg("profile").args(args);
    run(command)
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("profiles/{name}.toml"))
}

/// The names of the variables that are needed so.
fn needed(service: &Service, need: Need) -> BTreeSet<&str> {
    let all = service.variables.iter().filter(|variable| variable.need == need);
    all.map(|variable| variable.name.as_str()).collect()
}

fn set<const N: usize>(names: [&'static str; N]) -> BTreeSet<&'static str> {
    names.into()
}

fn services(profile: &Profile) -> BTreeMap<&str, &Service> {
    profile.services.iter().map(|service| (service.name.as_str(), service)).collect()
}

#[test]
fn the_built_in_profiles_are_shown_and_are_what_their_files_say() {
    for name in Profile::names() {
        let shown = profile(&["show", name]).ok();
        let loaded = Profile::load(name).unwrap();
        assert!(shown.stdout.starts_with(&format!("{name}, contract {}\n", loaded.contract_version)));
        for service in &loaded.services {
            assert!(shown.stdout.contains(&format!("\nservice {}\n", service.name)));
            let named = service.variables.iter().map(|variable| &variable.name);
            for text in named
                .chain(service.probes.iter().map(|probe| &probe.path))
                .chain(service.auth.iter().map(|row| &row.path))
            {
                assert!(shown.stdout.contains(text.as_str()), "{name} shows no {text}");
            }
        }
        // The document is the profile itself.
        let document: Profile = serde_json::from_value(profile(&["show", name, "--json"]).ok().json).unwrap();
        assert_eq!(document, loaded);
        assert_eq!(profile(&["show", file(name).to_str().unwrap()]).ok().stdout, shown.stdout);
    }
    // Without a name: the profile in force.
    assert!(profile(&["show"]).ok().stdout.starts_with("openwork,"));
    assert!(profile(&["show", "--profile", "clawwork"]).ok().stdout.starts_with("clawwork,"));
    let one = profile(&["show", "clawwork:openos-web"]).ok().stdout;
    assert!(one.contains("service openos-web") && !one.contains("service clawwork-api"));
    let message = profile(&["show", "openwerk", "--json"]).ended(2).error();
    assert!(message.contains("openwork, clawwork, open-cowork"), "{message}");
    assert!(profile(&["show", "clawwork:web", "--json"]).ended(2).error().contains("clawwork-api, openos-web"));
}

#[test]
fn a_valid_file_is_said_to_be_one() {
    for name in Profile::names() {
        let path = file(name);
        let done = profile(&["validate", path.to_str().unwrap(), "--json"]).ok();
        assert_eq!((&done.json["valid"], &done.json["problems"]), (&Value::Bool(true), &Value::Array(Vec::new())));
        assert!(profile(&["validate", path.to_str().unwrap()]).ok().stdout.contains("makes sense"));
    }
}

#[test]
fn every_problem_of_a_file_is_said_with_its_line() {
    let dir = TestDir::new();
    let text = "name = \"mine\"\ncontract_version = \"1\"\n\n[[services]]\nname = \"web\"\n\n[[services.variables]]\nname = \"A\"\n\
                source = \"railway\"\nneed = \"required\"\nor = [\"B\"]\n\n[[services.probes]]\nname = \"p\"\npath = \"health\"\nwaits = true\nexpect = []\n";
    let path = dir.write("mine.toml", text);
    let path = path.to_str().unwrap();
    let done = profile(&["validate", path, "--json"]).ended(2);
    let problems = done.json["problems"].as_array().unwrap();
    let lines: Vec<u64> = problems.iter().map(|problem| problem["line"].as_u64().unwrap()).collect();
    assert_eq!((lines, &done.json["valid"]), (vec![11, 13, 13], &Value::Bool(false)), "{}", done.stdout);
    let done = profile(&["validate", path]).ended(2);
    assert!(done.stdout.contains(&format!("{path}:11: service `web`: `A` refers to `B`")), "{}", done.stdout);
    assert!(done.stdout.ends_with("3 problems\n"));
    // Whoever uses it is told the same.
    let message = profile(&["show", path, "--json"]).ended(2).error();
    assert!(message.contains(":11: ") && message.contains("expects no status"), "{message}");

    for (text, says) in [
        ("name = \"x\"\nnmae = \"y\"\n", "mine.toml:2: unknown key `nmae` (did you mean `name`?)"),
        ("name = 1\n", "mine.toml:1: wrong type"),
        ("name = \"\n", "mine.toml:1: "),
    ] {
        let path = dir.write("mine.toml", text);
        let done = profile(&["validate", path.to_str().unwrap()]).ended(2);
        assert!(done.stdout.contains(says), "{}", done.stdout);
    }
    assert!(
        profile(&["validate", dir.join("none.toml").to_str().unwrap(), "--json"])
            .ended(2)
            .error()
            .contains("none.toml")
    );
}

#[test]
fn the_contract_of_openwork_is_all_there() {
    let openwork = Profile::load("openwork").unwrap();
    let service = &openwork.services[0];
    assert_eq!(
        needed(service, Need::Required),
        set([
            "OPENWORK_WORKSPACE",
            "OPENWORK_DATA_DIR",
            "OPENWORK_SIDECAR_DIR",
            "OPENWORK_TOKEN",
            "OPENWORK_HOST_TOKEN",
            "OPENWORK_OPENCODE_USERNAME",
            "OPENWORK_OPENCODE_PASSWORD",
        ])
    );
    let durable = needed(service, Need::DurableMetadata);
    assert!(durable.is_superset(&set(["OPENWORK_SERVER_CONFIG", "OPENWORK_TOKEN_STORE", "XDG_DATA_HOME"])));
    for variable in &service.variables {
        assert_eq!(
            variable.secret,
            variable.source == Source::OnePassword,
            "secrets are in 1Password, and nothing else"
        );
    }
    let shape = |name: &str| &service.variables.iter().find(|variable| variable.name == name).unwrap().shape;
    assert_eq!(*shape("OPENWORK_WORKSPACE"), Shape::Path { under: "/data/workspace".into() });
    assert_eq!(*shape("OPENWORK_DATA_DIR"), Shape::Path { under: "/data".into() });
    assert_eq!(*shape("OPENWORK_TOKEN"), Shape::Token { min_bytes: 32 });
    let volume = openwork.volume().unwrap();
    let paths: BTreeSet<&str> = volume.durable.iter().map(|durable| durable.path.as_str()).collect();
    assert!(paths.is_superset(&set(["workspace", "openwork-orchestrator", "sidecars", "openwork-server/tokens.json"])));
    assert_eq!(volume.recoverable, ["sidecars"]);
}

#[test]
fn the_contract_of_clawwork_is_all_there() {
    let clawwork = Profile::load("clawwork").unwrap();
    let (services, names) = (services(&clawwork), ["clawwork-api", "openos-web"]);
    assert_eq!(services.keys().copied().collect::<Vec<_>>(), names);
    let [api, web] = names.map(|name| services[name]);
    assert_ne!(api.volume.as_ref().unwrap().data_root, web.volume.as_ref().unwrap().data_root);
    assert_eq!(needed(api, Need::Required), set(["OPENAI_API_KEY", "E2B_API_KEY"]));
    assert_eq!(
        needed(api, Need::Hardening),
        set([
            "CLAWWORK_ENV",
            "CLAWWORK_REQUIRE_AUTH",
            "CLAWWORK_REQUIRE_READ_AUTH",
            "CLAWWORK_REQUIRE_TENANT_CONTEXT",
            "CLAWWORK_API_TOKEN",
            "CLAWWORK_CORS_ORIGINS",
            "CLAWWORK_ALLOWED_ENV_KEYS",
            "CLAWWORK_RATE_LIMIT_ENABLED",
            "CLAWWORK_RATE_LIMIT_WINDOW_SEC",
            "CLAWWORK_READ_RATE_LIMIT",
            "CLAWWORK_WRITE_RATE_LIMIT",
        ])
    );
    assert_eq!(needed(web, Need::Required), set(["CLAWWORK_INTERNAL_URL"]));
    let advised =
        |service: &Service, name: &str| service.variables.iter().find(|v| v.name == name).unwrap().value.clone();
    for (name, value) in [
        ("CLAWWORK_RATE_LIMIT_WINDOW_SEC", "60"),
        ("CLAWWORK_READ_RATE_LIMIT", "240"),
        ("CLAWWORK_WRITE_RATE_LIMIT", "60"),
    ] {
        assert_eq!(advised(api, name).as_deref(), Some(value));
    }
    assert_eq!(advised(web, "CLAWWORK_PROXY_READ_RATE_LIMIT").as_deref(), Some("120"));
    assert_eq!(advised(web, "CLAWWORK_PROXY_WRITE_RATE_LIMIT").as_deref(), Some("30"));
    // One token for both, and tenants by a header.
    for (service, other) in [(api, "openos-web"), (web, "clawwork-api")] {
        let token = service.variables.iter().find(|variable| variable.name == "CLAWWORK_API_TOKEN").unwrap();
        assert_eq!(token.shared_with, [other]);
        assert!(token.secret && !token.required_when.is_empty());
    }
    let front = api.identities.iter().find(|identity| identity.name == "front").unwrap();
    assert!(front.headers.contains_key("X-Tenant-Id"));
    for row in api.auth.iter().chain(&web.auth) {
        assert!(row.answers["none"].iter().all(|status| [401, 403].contains(status)), "nobody gets {}", row.path);
    }
}

#[test]
fn the_contract_of_open_cowork_is_all_there() {
    let open_cowork = Profile::load("open-cowork").unwrap();
    let services = services(&open_cowork);
    assert_eq!(services.keys().copied().collect::<Vec<_>>(), ["gateway", "scheduler", "web", "worker"]);
    let probes =
        |service: &str| services[service].probes.iter().map(|probe| probe.path.as_str()).collect::<BTreeSet<_>>();
    assert_eq!(probes("web"), set(["/livez", "/readyz", "/healthz", "/", "/api/config", "/api/workspace"]));
    assert_eq!(probes("gateway"), set(["/health", "/ready"]));
    let workbench = &services["web"].probes.iter().find(|probe| probe.path == "/").unwrap().expect;
    assert_eq!(workbench.len(), 1);
    assert_eq!(workbench[0].content_type.as_deref(), Some("text/html"));
    assert_eq!(workbench[0].headers["cache-control"], "no-store");
    assert!(workbench[0].headers["content-security-policy"].contains("nonce-"));
    assert!(workbench[0].body.iter().any(|text| text == "/assets/"));
    // An answer of a proxy or of a file server is HTML.
    for path in ["/api/config", "/api/workspace"] {
        let probe = services["web"].probes.iter().find(|probe| probe.path == path).unwrap();
        assert!(probe.expect.iter().all(|answer| answer.content_type.as_deref() == Some("application/json")));
    }
    for (service, paths) in [("web", set(["/api/metrics"])), ("gateway", set(["/metrics", "/diagnostics"]))] {
        let rows = &services[service].auth;
        assert_eq!(rows.iter().map(|row| row.path.as_str()).collect::<BTreeSet<_>>(), paths);
        for row in rows {
            assert!(row.answers["admin"] == [200] && row.answers["none"].iter().all(|status| *status != 200));
        }
    }
    let web = services["web"];
    let of = |name: &str| web.variables.iter().find(|variable| variable.name == name).unwrap();
    let tiers = ["local", "self_host_beta", "private_beta", "public_production"].map(str::to_owned);
    assert_eq!(of("OPEN_COWORK_CLOUD_DEPLOYMENT_TIER").shape, Shape::OneOf { values: tiers.into() });
    assert_eq!(of("OPEN_COWORK_CLOUD_COOKIE_SECRET").or, ["OPEN_COWORK_CLOUD_COOKIE_SECRET_REF"]);
    for name in ["OPEN_COWORK_CLOUD_PUBLIC_URL", "OPEN_COWORK_CLOUD_SECRET_KEY_REF"] {
        assert_eq!(of(name).required_when[0].is, ["public_production"], "{name}");
    }
    // Plain HTTP is for this machine alone.
    assert_eq!(of("OPEN_COWORK_CLOUD_PUBLIC_URL").shape, Shape::Url { https: true, public: false });
}
