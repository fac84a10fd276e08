//! What a process does before it handles secrets, looked at from outside.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/again.rs"]
mod again;

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use again::{Held, again, hold, role, under};
use opsctl::hardening::protect;
use opsctl::secret::Secret;
use opsctl::wiping::Wiping;
use support::TestDir;
use support::opsctl::{run, traced};

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

const USER: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
const MIB: usize = 1 << 20;

/// What this says of a process in `/proc`.
fn told(pid: u32, file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim_start_matches(':').trim().to_owned()
}

fn locked_kib(pid: u32) -> usize {
    told(pid, "status", "VmLck").trim_end_matches(" kB").trim().parse().unwrap()
}

/// The process of a test, with the limits of `prlimit`, as a user without rights.
fn unprivileged(dir: &TestDir, command: &Command, limits: &[&str]) -> Command {
    // The target folder may lie where that user cannot look.
    let program = dir.join("program");
    let copied = Command::new("cp").arg("--").arg(command.get_program()).arg(&program).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program was not copied");
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    let mut copy = Command::new(program);
    copy.args(command.get_args()).env_clear();
    copy.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    under(["prlimit"].iter().chain(limits).chain(&USER), &copy)
}

/// Logs as `-v` does, protects itself if asked to, and works with secrets.
fn play(role: &str) {
    opsctl::ui::init_logging(opsctl::ui::LogFormat::Text, "r1", 1, false);
    if role != "open" {
        protect();
        protect();
    }
    let secrets: Vec<Secret> = (0..20).map(|n| Secret::new(&format!("secret {n} ").repeat(100))).collect();
    // More than any limit here, in this thread and in others.
    let work = || std::hint::black_box(vec![1_u8; 24 * MIB]).len();
    assert_eq!(std::thread::spawn(work).join().unwrap() + work(), 48 * MIB);
    // The program reaches folders by their descriptors.
    let file = File::open("/proc/self/exe").unwrap();
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    hold();
    drop(secrets);
}

#[test]
fn no_core_file_is_written_whatever_the_limit_was() {
    if let Some(role) = role() {
        return play(&role);
    }
    let dir = TestDir::new();
    for (role, want) in [("open", "unlimited"), ("protected", "0")] {
        let own = again("no_core_file_is_written_whatever_the_limit_was", role);
        let mut command = under(["prlimit", "--core=unlimited:unlimited"], &own);
        let mut held = Held::start(command.current_dir(dir.path()));
        let limit = told(held.pid(), "limits", "Max core file size");
        assert_eq!(limit.split_whitespace().collect::<Vec<_>>(), [want, want, "bytes"], "{role}");
        let status = held.abort();
        assert_eq!((status.signal(), status.core_dumped()), (Some(6), role == "open"), "{role}");
        let written = std::fs::read_dir(dir.path()).unwrap().count();
        // Where the system pipes cores to a program, no file is here in any case.
        assert!(role == "open" || written == 0, "{role}");
        for file in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn no_other_process_of_the_same_user_looks_in() {
    if let Some(role) = role() {
        return play(&role);
    }
    let dir = TestDir::new();
    for (role, owner) in [("open", 65534), ("protected", 0)] {
        let own = again("no_other_process_of_the_same_user_looks_in", role);
        let held = Held::start(&mut unprivileged(&dir, &own, &[]));
        let environ = format!("/proc/{}/environ", held.pid());
        for path in [environ.clone(), format!("/proc/{}/mem", held.pid()), format!("/proc/{}/fd", held.pid())] {
            assert_eq!(std::fs::metadata(&path).unwrap().uid(), owner, "{role} {path}");
        }
        let mut look = under(USER, Command::new("cat").arg(&environ).env("PATH", std::env::var("PATH").unwrap()));
        let seen = look.output().unwrap();
        assert_eq!(!seen.stdout.is_empty(), role == "open", "{role}: {seen:?}");
        held.go_on();
    }
}

#[test]
fn all_memory_is_locked_where_no_limit_can_be_hit() {
    if let Some(role) = role() {
        return play(&role);
    }
    let test = "all_memory_is_locked_where_no_limit_can_be_hit";
    let open = Held::start(&mut again(test, "open"));
    assert_eq!(locked_kib(open.pid()), 0);
    open.go_on();

    // By right, whatever the limit is.
    let held = Held::start(&mut under(["prlimit", "--memlock=65536:65536"], &again(test, "protected")));
    // Mapped and locked, and there when it is touched.
    assert!(locked_kib(held.pid()) > 24 * 1024, "{} KiB", locked_kib(held.pid()));
    assert_eq!(held.go_on(), "");
}

#[test]
fn under_a_limit_the_secrets_are_locked_and_nothing_fails() {
    if let Some(role) = role() {
        return play(&role);
    }
    let dir = TestDir::new();
    let own = again("under_a_limit_the_secrets_are_locked_and_nothing_fails", "protected");
    // The first may be raised.
    for (limit, least, most) in [("4096:65536", 20, 64), ("65536:65536", 20, 64), ("8192:8192", 4, 8), ("0:0", 0, 0)] {
        let held = Held::start(&mut unprivileged(&dir, &own, &[&format!("--memlock={limit}")]));
        let locked = locked_kib(held.pid());
        assert!((least..=most).contains(&locked), "limit {limit}: {locked} KiB");
        let said = held.go_on();
        assert!(said.contains("may be kept out of swap: the secrets are"), "{said}");
        assert_eq!(said.matches("not every secret can be kept out of swap").count(), usize::from(most < 64), "{said}");
    }
}

#[test]
fn no_command_dumps_a_core() {
    let dir = TestDir::new();
    let mut command = support::opsctl_process();
    command.args(["list", "--store"]).arg(dir.file_url("store"));
    let log = dir.join("strace");
    run(traced(&command, &log, &["-e", "trace=prlimit64"])).ended(10);
    let calls = std::fs::read_to_string(log).unwrap();
    assert!(calls.contains("RLIMIT_CORE, {rlim_cur=0, rlim_max=0}, NULL) = 0"), "{calls}");
}
