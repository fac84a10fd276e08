//! What the system says of `opsctl secrets` while it holds values.
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

use std::time::Duration;

use onepassword::{Act, Fault, When};
use rustix::process::Signal;
use support::opsctl::Guarded;
use support::{signal, wait_for};
use vaulted::Scene;

#[test]
fn its_memory_is_locked_and_no_core_is_dumped() {
    let scene = Scene::new();
    // At the last item: the values of the others are there.
    scene.op.fail(&Fault::new(When::Before, Act::Hang).at_call(3));
    let child = Guarded::spawn(&mut scene.command(&["sync", "--yes"]));
    wait_for("op to hang", Duration::from_secs(60), || scene.op.hanging());
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", child.0.id())).unwrap();
    let status = read("status");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim().to_owned();
    assert_ne!(locked, "0 kB", "{status}");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{limits}");
    signal(&child.0, Signal::ABORT);
    let ended = child.end();
    assert_eq!(ended.code, 128 + 6, "{}", ended.stderr);
    assert!(
        scene.dir.path().read_dir().unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("core"))
    );
    for pid in scene.op.hanging().into_iter().flatten() {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
}
