//! The client of Railway's API against a stand-in that checks every request against Railway's schema.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/railway/mod.rs"]
mod railway;

use std::collections::BTreeMap;

use opsctl::config::Environment;
use opsctl::providers::railway::{Place, Railway};
use opsctl::secret::Secret;
use railway::{FakeRailway, SHARED};

fn client(fake: &FakeRailway) -> Railway {
    let variables = fake.variables_for();
    Railway::from_environment(&Environment::fixed(variables.iter().map(|(name, value)| (*name, value.as_str()))))
        .unwrap()
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

#[test]
fn variables_are_written_beside_others_and_nothing_is_deployed() {
    let fake = FakeRailway::start();
    let service = fake.service("openwork");
    fake.set("openwork", "OTHER", "${{shared.DOMAIN}}");
    fake.set(SHARED, "DOMAIN", "example.com");
    let client = client(&fake);
    wait(client.upsert(&place(&fake, Some(&service)), &values([("TOKEN", "a\n\"b\" \u{1f980}")]))).unwrap();
    assert_eq!(fake.get("openwork", "TOKEN").as_deref(), Some("a\n\"b\" \u{1f980}"));
    assert_eq!(fake.get("openwork", "OTHER").as_deref(), Some("${{shared.DOMAIN}}"));
    assert_eq!(fake.deploys("openwork"), 0);
    let read = wait(client.variables(&place(&fake, Some(&service)))).unwrap();
    assert_eq!(read["TOKEN"].as_ref().map(Secret::expose), Some("a\n\"b\" \u{1f980}"));
}
