//! The stand-in for openwork-server as a program of its own, for tests that start and end one, and for whoever wants to try opsctl on
//! something:
//!
//! ```text
//! cargo run --example openwork-server -- --data DIR [--version 0.18.16] [--fault NAME]…
//! ```
//! It takes a free port and says which. OpenCode is where `OPENWORK_OPENCODE_BASE_URL`, `…_USERNAME` and `…_PASSWORD` say, as for the
//! real one; without them there is none. Its tokens are those of the tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "part of the tests: it fails by panicking")]

#[path = "../ask.rs"]
mod ask;
#[path = "mod.rs"]
mod openwork;
#[path = "../random.rs"]
mod random;
#[path = "../server.rs"]
mod stub_store;

/// Where the parts look for each other in a test.
mod support {
    pub(crate) use crate::{ask, random};
}

use std::io::Write as _;
use std::path::PathBuf;

use openwork::{Engine, Faults, OpenWork, VERSIONS, Version};

fn main() {
    let (mut data, mut version, mut faults) = (None, Version::V0_18_16, Faults::default());
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{flag} wants a value"));
        match flag.as_str() {
            "--data" => data = Some(PathBuf::from(value)),
            "--version" => {
                let known = VERSIONS.into_iter().find(|known| known.name() == value);
                version = known.unwrap_or_else(|| panic!("known are {VERSIONS:?}"));
            }
            "--fault" => switch(&mut faults, &value),
            _ => panic!("{flag}: known are --data DIR, --version NAME and --fault NAME"),
        }
    }
    let data = data.expect("--data DIR names its volume");
    let it = OpenWork::boot(version, &data, engine());
    it.fault(|of_it| *of_it = faults);
    writeln!(std::io::stdout(), "openwork-server {} listening on {}", version.name(), it.url()).expect("say where");
    loop {
        std::thread::park();
    }
}

fn engine() -> Engine {
    let variable = |name: &str| std::env::var(format!("OPENWORK_OPENCODE_{name}")).unwrap_or_default();
    let base = variable("BASE_URL");
    if base.is_empty() {
        return Engine::Unconfigured;
    }
    let port = base.strip_prefix("http://127.0.0.1:").and_then(|port| port.parse().ok());
    let port = port.unwrap_or_else(|| panic!("{base}: OpenCode is on loopback, http://127.0.0.1:PORT"));
    Engine::real(port, &variable("USERNAME"), &variable("PASSWORD"))
}

fn switch(faults: &mut Faults, name: &str) {
    *match name {
        "open" => &mut faults.open,
        "ui-disabled" => &mut faults.ui_disabled,
        "session-list-fails" => &mut faults.session_list_fails,
        "engine-dead" => &mut faults.engine_dead,
        "read-only" => &mut faults.read_only,
        "drift" => &mut faults.drift,
        "viewers-write" => &mut faults.viewers_write,
        "one-scope" => &mut faults.one_scope,
        _ => panic!("{name}: see `Faults` for what can be wrong"),
    } = true;
}
