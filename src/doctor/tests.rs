//! What the variables of a contract come to, without a process around it.

use super::*;
use crate::config::Profile;

/// What becomes of each variable of a service with these values.
fn variables(service: &str, set: &[(&str, &str)]) -> Vec<Finding> {
    let (name, _) = service.split_once(':').unwrap();
    let profile = Profile::load(service).unwrap();
    assert_eq!(profile.name, name);
    let environment = Environment::fixed(set.iter().copied());
    with_request(profile.chosen_services().next().unwrap(), &environment, variables::check)
}

fn with_request<T>(service: &Service, environment: &Environment, check: impl FnOnce(&Request<'_>) -> T) -> T {
    with_store(service, environment, Error::usage("none"), check)
}

/// The same with a store that is not usable for this reason.
fn with_store<T>(
    service: &Service,
    environment: &Environment,
    error: Error,
    check: impl FnOnce(&Request<'_>) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    check(&Request {
        service,
        environment,
        store: Err(error),
        source: "web",
        host: Ok(HostConfig::default()),
        signing_key: None,
        identities: None,
        state_dir: None,
        max_age: None,
        sidecar_manifest: None,
        secrets: Ok(None),
        runtime: runtime.handle(),
        cancel: &Cancel::default(),
    })
}

/// The status of one variable, and what was said.
fn of(service: &str, variable: &str, set: &[(&str, &str)]) -> (Status, String) {
    let found = variables(service, set).into_iter().find(|finding| finding.name == format!("var.{variable}")).unwrap();
    (found.status, format!("{} {}", found.detail, found.fix.unwrap_or_default()))
}

const TOKEN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const WEB: &str = "open-cowork:web";
const TIER: &str = "OPEN_COWORK_CLOUD_DEPLOYMENT_TIER";
const PUBLIC: (&str, &str) = (TIER, "public_production");

#[test]
fn a_tier_makes_required_what_is_only_advised_elsewhere() {
    let url = "OPEN_COWORK_CLOUD_PUBLIC_URL";
    assert_eq!(of(WEB, url, &[]).0, Status::Warning);
    assert_eq!(of(WEB, url, &[PUBLIC]).0, Status::Failed);
    for (value, at_home, in_public) in [
        ("https://cowork.example.com", Status::Ok, Status::Ok),
        ("http://localhost:3000", Status::Ok, Status::Failed),
        ("http://cowork.example.com", Status::Failed, Status::Failed),
    ] {
        assert_eq!(of(WEB, url, &[(url, value)]).0, at_home, "{value}");
        assert_eq!(of(WEB, url, &[(url, value), PUBLIC]).0, in_public, "{value}");
    }
    let secure = "OPEN_COWORK_CLOUD_COOKIE_SECURE";
    assert_eq!(of(WEB, secure, &[(secure, "false")]).0, Status::Warning);
    assert_eq!(of(WEB, secure, &[(secure, "false"), PUBLIC]).0, Status::Failed);
    let mode = "OPEN_COWORK_CLOUD_AUTH_MODE";
    assert_eq!(of(WEB, mode, &[(mode, "none"), (TIER, "local")]).0, Status::Ok);
    let (status, said) = of(WEB, mode, &[(mode, "none"), PUBLIC]);
    assert!(status == Status::Failed && said.contains("only a local demo"), "{said}");
}

#[test]
fn a_reference_takes_the_place_of_a_secret() {
    let (secret, reference) = ("OPEN_COWORK_CLOUD_COOKIE_SECRET", "OPEN_COWORK_CLOUD_COOKIE_SECRET_REF");
    assert_eq!(of(WEB, secret, &[]).0, Status::Failed);
    assert_eq!(of(WEB, secret, &[(reference, "gcp-sm://projects/p/secrets/s/versions/1")]).0, Status::Ok);
    assert_eq!(of(WEB, reference, &[(reference, "plain")]).0, Status::Failed);
    assert_eq!(of(WEB, secret, &[(secret, TOKEN)]).0, Status::Ok);
}

#[test]
fn a_variable_counts_only_under_its_conditions() {
    let secret = "OPEN_COWORK_CLOUD_HEADER_AUTH_SECRET";
    let mode = |value| ("OPEN_COWORK_CLOUD_AUTH_MODE", value);
    assert_eq!(of(WEB, secret, &[mode("oidc"), PUBLIC]).0, Status::Skipped);
    assert_eq!(of(WEB, secret, &[mode("header"), (TIER, "local")]).0, Status::Skipped);
    assert_eq!(of(WEB, secret, &[mode("header"), PUBLIC]).0, Status::Failed);
    // In words, where no variable tells: nobody can say that it must be there.
    let (status, said) = of("clawwork:clawwork-api", "E2B_API_KEY", &[]);
    assert!(status == Status::Warning && said.contains("needed if code is executed"), "{said}");
    // The rate limits count while they are on.
    let limit = "CLAWWORK_READ_RATE_LIMIT";
    assert_eq!(of("clawwork:clawwork-api", limit, &[]).0, Status::Skipped);
    assert_eq!(of("clawwork:clawwork-api", limit, &[("CLAWWORK_RATE_LIMIT_ENABLED", "true")]).0, Status::Warning);
}

#[test]
fn a_token_of_two_services_is_required_where_the_other_asks_for_it() {
    let token = "CLAWWORK_API_TOKEN";
    let api = |set: &[(&str, &str)]| of("clawwork:clawwork-api", token, set);
    assert_eq!(api(&[]).0, Status::Warning);
    assert_eq!(api(&[("CLAWWORK_REQUIRE_AUTH", "true")]).0, Status::Failed);
    assert_eq!(api(&[("CLAWWORK_REQUIRE_READ_AUTH", "true")]).0, Status::Failed);
    assert!(api(&[(token, TOKEN)]).1.contains("must be the same in openos-web"));
    // Here the condition is one of the other service.
    let (status, said) = of("clawwork:openos-web", token, &[("CLAWWORK_REQUIRE_AUTH", "true")]);
    assert!(status == Status::Warning && said.contains("CLAWWORK_REQUIRE_AUTH of clawwork-api is true"), "{said}");
}

#[test]
fn a_switch_that_is_not_as_advised_is_a_warning_and_a_number_is_free() {
    let api = |variable: &str, value: &str| of("clawwork:clawwork-api", variable, &[(variable, value)]).0;
    assert_eq!(api("CLAWWORK_REQUIRE_AUTH", "false"), Status::Warning);
    assert_eq!(api("CLAWWORK_ENV", "development"), Status::Warning);
    assert_eq!(api("CLAWWORK_ENV", "prod"), Status::Failed);
    assert_eq!(api("CLAWWORK_CORS_ORIGINS", "*"), Status::Warning);
    let limited = [("CLAWWORK_RATE_LIMIT_ENABLED", "true"), ("CLAWWORK_READ_RATE_LIMIT", "1000")];
    assert_eq!(of("clawwork:clawwork-api", "CLAWWORK_READ_RATE_LIMIT", &limited).0, Status::Ok);
}

#[test]
fn a_secret_that_a_message_repeats_is_blanked_out() {
    let openwork = Profile::load("openwork").unwrap();
    let environment = Environment::fixed([
        ("OPENWORK_TOKEN", TOKEN),
        ("OPENWORK_OPENCODE_PASSWORD", "short"),
        ("AWS_SECRET_ACCESS_KEY", "aws+secret/key"),
    ]);
    let text = format!("a {TOKEN} b aws+secret/key c short AGE-SECRET-KEY-1ABC");
    let mut checks = [Finding::failed("x", &text, &text), Finding::ok("y", "nothing")];
    with_request(&openwork.services[0], &environment, |request| blank_out_secrets(request, &mut checks));
    // What is as short as a word stays: else the word would be blanked out everywhere.
    assert_eq!(checks[0].detail, "a … b … c short AGE-SECRET-KEY-…");
    assert_eq!(checks[0].fix.as_ref(), Some(&checks[0].detail));
    assert_eq!(checks[1].detail, "nothing");
}

#[test]
fn no_check_of_a_variable_repeats_a_secret_also_without_the_last_net() {
    for service in
        ["openwork:openwork", "clawwork:clawwork-api", "clawwork:openos-web", "open-cowork:web", "open-cowork:gateway"]
    {
        let profile = Profile::load(service).unwrap();
        for variable in profile.chosen_services().flat_map(|service| &service.variables).filter(|one| one.secret) {
            for value in [TOKEN, "weak-secret", " padded-secret", "changeme-secret", "<secret>"] {
                let (_, said) =
                    of(service, &variable.name, &[(&variable.name, value), ("CLAWWORK_REQUIRE_AUTH", "true")]);
                assert!(!said.contains(value.trim()), "{service} {}: {said}", variable.name);
            }
        }
    }
}

#[test]
fn the_last_net_is_in_place() {
    let profile = Profile::load("clawwork:openos-web").unwrap();
    let environment = Environment::fixed([("CLAWWORK_API_TOKEN", TOKEN)]);
    let error = Error::usage(format!("a library says {TOKEN}")).hint(format!("use {TOKEN}"));
    let service = profile.chosen_services().next().unwrap();
    let report = with_store(service, &environment, error, |request| examine(request, false)).unwrap();
    assert_eq!(report.verdict, Verdict::Failed);
    let list = report.checks.iter().find(|finding| finding.name == "store.list").unwrap();
    assert_eq!((list.detail.as_str(), list.fix.as_deref()), ("a library says …", Some("use …")));
}
