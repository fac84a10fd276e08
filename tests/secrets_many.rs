//! Many services with many secrets: few questions to 1Password and to Railway, and one deployment each.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
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

use std::fmt::Write as _;

use serde_json::json;
use support::opsctl::Done;
use vaulted::{Scene, result};

const SERVICES: usize = 20;
const VARIABLES: usize = 10;
const ITEMS: usize = 5;
/// Services that have one secret in common.
const SHARING: usize = 10;
const COMMON: &str = "c0mmon-token-of-ten-services-0123456789";

fn name(service: usize) -> String {
    format!("service-{service:02}")
}

fn value(service: usize, variable: usize) -> String {
    if variable == 0 && service < SHARING {
        return COMMON.to_owned();
    }
    format!("s3cret-{service:02}-{variable}-0123456789abcdef")
}

/// Services, of which each has the same number of variables, out of a few items: by title, and by id.
struct Many {
    scene: Scene,
    /// The first of the items.
    first: String,
}

impl Many {
    fn new() -> Self {
        let scene = Scene::new();
        let mut items = Vec::new();
        for item in 0..ITEMS {
            let of_item = (0..SERVICES).filter(|service| service % ITEMS == item);
            let all = of_item.flat_map(|service| (0..VARIABLES).map(move |variable| (service, variable)));
            let fields: Vec<(String, String)> = all
                .map(|(service, variable)| (format!("{}-{variable}", name(service)), value(service, variable)))
                .collect();
            let mut fields: Vec<(&str, &str)> =
                fields.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
            fields.push(("common", COMMON));
            items.push(scene.op.item(&scene.vault, &format!("item-{item}"), &fields));
        }
        let mut text = format!(
            "[secrets]\nprovider = \"op\"\nfingerprint_key = \"op://Team/opsctl/fingerprint-key\"\n[[secrets.targets]]\nname = \"all\"\n\
             project = \"{}\"\nenvironment = \"{}\"\nvault = \"Team\"\n",
            scene.railway.project(),
            scene.railway.environment()
        );
        for service in 0..SERVICES {
            let id = scene.railway.service(&name(service));
            scene.railway.run(&name(service));
            write!(
                text,
                "[[secrets.targets.services]]\nname = \"{}\"\nservice = \"{id}\"\n[secrets.targets.services.variables]\n",
                name(service)
            )
            .unwrap();
            for variable in 0..VARIABLES {
                let number = service % ITEMS;
                // Two of the items by id.
                let title = format!("item-{number}");
                let item = if number % 2 == 1 { &items[number] } else { &title };
                let reference = match value(service, variable) == COMMON {
                    true => "op://Team/item-0/common".to_owned(),
                    false => format!("op://Team/{item}/{}-{variable}", name(service)),
                };
                writeln!(text, "VARIABLE_{variable} = \"{reference}\"").unwrap();
            }
        }
        scene.configure(&text);
        Self { scene, first: items.swap_remove(0) }
    }

    fn deploys(&self) -> Vec<usize> {
        (0..SERVICES).map(|service| self.scene.railway.deploys(&name(service))).collect()
    }

    #[track_caller]
    fn within_the_budget(&self, done: &Done, onepassword_before: u64) {
        let budget = |of: &str| done.json["requests"][of].as_u64().expect("a budget");
        let (railway, onepassword) =
            (self.scene.railway.seen().len() as u64, self.scene.op.requests() - onepassword_before);
        println!(
            "Railway: {railway} of {} requests; 1Password: {onepassword} of {}",
            budget("railway"),
            budget("onepassword")
        );
        assert!(railway <= budget("railway"));
        // The smallest plan of Railway lets in 1,000 in an hour.
        assert!(railway < 300, "{railway}");
        assert_eq!(onepassword, budget("onepassword"));
        assert!(onepassword < 30, "{onepassword}");
    }
}

#[test]
fn many_secrets_take_one_read_of_each_item_and_one_write_and_deployment_of_each_service() {
    let many = Many::new();
    let railway = &many.scene.railway;
    let done = many.scene.run(&["sync", "--yes"]).ok();
    many.within_the_budget(&done, 0);
    assert_eq!(
        (railway.count("variableCollectionUpsert"), railway.count("serviceInstanceDeployV2")),
        (SERVICES, SERVICES)
    );
    assert_eq!(many.deploys(), [1; SERVICES]);
    for service in 0..SERVICES {
        let (has, runs) = (railway.variables(&name(service)), railway.running(&name(service)));
        assert_eq!(has.len(), VARIABLES);
        for variable in 0..VARIABLES {
            let (name, value) = (format!("VARIABLE_{variable}"), value(service, variable));
            assert_eq!((&has[&name], &runs[&name]), (&value, &value));
        }
        let told = result(&done, &name(service));
        assert_eq!((&told["written"], &told["status"]), (&json!(VARIABLES), &json!("success")));
    }
    let gets = many.scene.op.calls().iter().filter(|call| call.verb() == "get").count();
    assert_eq!(gets, ITEMS + 1, "each item once, and the one with the key of fingerprints");
    many.scene.run(&["plan", "--detailed-exit-code"]).ok();
}

#[test]
fn a_secret_that_ten_services_share_deploys_those_ten() {
    let many = Many::new();
    let railway = &many.scene.railway;
    many.scene.run(&["sync", "--yes"]).ok();
    railway.forget();
    let before = many.scene.op.requests();
    many.scene.op.set(&many.first, "common", "an0ther-token-of-ten-services-0123456789");
    let done = many.scene.run(&["sync", "--yes"]).ok();
    many.within_the_budget(&done, before);
    let wanted: Vec<usize> = (0..SERVICES).map(|service| if service < SHARING { 2 } else { 1 }).collect();
    assert_eq!(many.deploys(), wanted);
    let written: Vec<_> =
        railway.seen().into_iter().filter(|seen| seen.operation == "variableCollectionUpsert").collect();
    assert_eq!(written.len(), SHARING);
    for seen in &written {
        let names: Vec<_> = seen.variables["variables"].as_object().expect("variables").keys().collect();
        assert_eq!(names, ["VARIABLE_0"], "what changes alone");
    }
    for service in 0..SHARING {
        assert_eq!(railway.running(&name(service))["VARIABLE_0"], "an0ther-token-of-ten-services-0123456789");
    }
    many.scene.run(&["plan", "--detailed-exit-code"]).ok();
}
