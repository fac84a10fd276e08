//! The memory of a process, looked through from outside.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::canary::places;
use crate::support::opsctl::{Guarded, traced};
use crate::support::wait_for;

/// Read at once; mappings are larger.
const PART: usize = 4 << 20;
/// The number of the call that ends a process.
#[cfg(target_arch = "x86_64")]
const EXIT_GROUP: &str = "231";
#[cfg(target_arch = "aarch64")]
const EXIT_GROUP: &str = "94";

/// Where a value stands: the mapping, such as `[heap]`, and the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub mapping: String,
    pub address: u64,
}

/// Every whole copy of a value in the memory of a process, which must stand still.
pub fn copies(pid: u32, value: &[u8]) -> Vec<Copy> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the mappings of the process");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the tests run as root");
    let (mut found, mut read_bytes) = (Vec::new(), 0);
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (from, to) = words[0].split_once('-').expect("a range");
        let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).expect("an address"));
        let mapping = (*words.get(5).unwrap_or(&"anonymous")).to_owned();
        if !words[1].starts_with('r') || mapping.starts_with("[v") {
            continue;
        }
        let mut at = from;
        while at < to {
            // One copy may lie across two parts.
            let wanted = usize::try_from(to - at).expect("a mapping").min(PART + value.len() - 1);
            let mut part = vec![0; wanted];
            let Ok(read) = memory.read_at(&mut part, at) else { break };
            if read == 0 {
                break;
            }
            read_bytes += read;
            for place in places(&part[..read], value).filter(|place| *place < PART) {
                found.push(Copy { mapping: mapping.clone(), address: at + place as u64 });
            }
            at += read.min(PART) as u64;
        }
    }
    assert!(read_bytes > 1 << 20, "of the memory of {pid} only {read_bytes} bytes could be read");
    found
}

/// A process that has done all its work, held when its first thread is about to end it.
#[derive(Debug)]
pub struct Ending {
    strace: Guarded,
    pub pid: u32,
}

impl Ending {
    /// Runs a command up to there. `log` is where strace writes. Its output is not read: it must fit into a pipe.
    pub fn of(command: &Command, log: &Path) -> Self {
        Self::given(command, log, &[])
    }

    /// The same with `input` on its standard input, which has to fit into a pipe.
    pub fn given(command: &Command, log: &Path, input: &[u8]) -> Self {
        // Longer than any look into it; and its children are not held.
        let options = ["--trace=exit_group", "--inject=exit_group:delay_enter=600s"];
        let held = traced(command, log, &options);
        let kept = held.get_args().filter(|arg| *arg != "-f");
        let mut strace = Command::new(held.get_program());
        strace.args(kept).env_clear().envs(held.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut strace = Guarded::spawn(&mut strace);
        // Behind it, whoever reads standard input is told that there is no more.
        strace.0.stdin.take().expect("its input").write_all(input).expect("write to a pipe");
        let children = format!("/proc/{0}/task/{0}/children", strace.0.id());
        let pid = wait_for("the end of the work", Duration::from_secs(120), || {
            if let Some(status) = strace.0.try_wait().expect("wait for a child") {
                panic!("it was not held: {status}");
            }
            let pid: u32 = std::fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
            (call.split_whitespace().next() == Some(EXIT_GROUP)).then_some(pid)
        });
        Self { strace, pid }
    }

    /// Lets it end, and gives what it said on both outputs.
    pub fn go_on(mut self) -> (Vec<u8>, Vec<u8>) {
        // Without its tracer it goes on at once.
        self.strace.0.kill().expect("end strace");
        let read = |stream: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            stream.map(|stream| stream.read_to_end(&mut bytes).expect("read its output"));
            bytes
        };
        let out = read(self.strace.0.stdout.as_mut().map(|s| s as &mut dyn std::io::Read));
        let err = read(self.strace.0.stderr.as_mut().map(|s| s as &mut dyn std::io::Read));
        (out, err)
    }
}
