//! Where the bytes went that a command and its children gave to the system.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use super::{Canary, Form};
use crate::calls::{Call, record_given};
use crate::support::opsctl::Done;

const OPTIONS: [&str; 7] = ["-yy", "-v", "-xx", "-s", "10000000", "-e", "trace=%file,%desc,%network,%process,prctl"];
/// Calls that take bytes in: what they show came from elsewhere.
const READS: [&str; 9] =
    ["read", "readv", "pread64", "preadv", "preadv2", "recvfrom", "recvmsg", "recvmmsg", "readlinkat"];
const WRITES: [&str; 8] = ["write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg"];

/// Where bytes went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The arguments of a program.
    Arguments,
    /// The environment of a program.
    Environment,
    /// The content of a file, also of one without a name.
    File(String),
    /// A pipe, with the programs among those that were traced that read from it.
    Pipe(Vec<String>),
    /// A connection, by its addresses.
    Socket(String),
    /// A terminal or another device.
    Device(String),
    /// Anything else that a call was given, such as a path.
    Call(String),
}

/// The run of a command under strace.
#[derive(Debug)]
pub struct Trace {
    pub done: Done,
    /// By the file name of the program that gave them (that was started with them).
    given: BTreeMap<(String, Place), Vec<u8>>,
}

impl Trace {
    /// Runs a command to its end. `log` is where strace writes.
    pub fn of(command: &Command, log: &Path) -> Self {
        Self::with(command, log, &[], &[])
    }

    /// The same with further options of strace, and with `input` on standard input.
    pub fn with(command: &Command, log: &Path, options: &[&str], input: &[u8]) -> Self {
        let (done, calls) = record_given(command, log, &[&OPTIONS, options].concat(), input);
        Self { done, given: given(&calls) }
    }

    /// Where a value was seen, in which forms, and who gave it there.
    pub fn seen(&self, canary: &Canary) -> Vec<(&str, &Place, Vec<Form>)> {
        let look = |((program, place), bytes)| {
            let forms = canary.found_in(bytes);
            (!forms.is_empty()).then_some((program, place, forms))
        };
        let given = self.given.iter().map(|((program, place), bytes)| ((program.as_str(), place), bytes.as_slice()));
        given.filter_map(look).collect()
    }

    /// The programs that were started.
    pub fn programs(&self) -> BTreeSet<&str> {
        let started = self.given.keys().filter(|(_, place)| *place == Place::Arguments);
        started.map(|(program, _)| program.as_str()).collect()
    }

    /// The places to which this program gave anything.
    pub fn places(&self, program: &str) -> Vec<&Place> {
        self.given.keys().filter(|(who, _)| who == program).map(|(_, place)| place).collect()
    }
}

/// What was given, joined where it went to the same place: a value may come in two pieces.
fn given(calls: &[Call]) -> BTreeMap<(String, Place), Vec<u8>> {
    let mut programs = Programs::of(calls);
    let named: Vec<(String, &Call)> = calls.iter().map(|call| (programs.at(call), call)).collect();
    let mut readers: HashMap<&[u8], BTreeSet<&str>> = HashMap::new();
    for (program, call) in named.iter().filter(|(_, call)| READS.contains(&call.name.as_str())) {
        for (_, path) in call.descriptors().take(1) {
            readers.entry(path).or_default().insert(program);
        }
    }
    let mut given: BTreeMap<(String, Place), Vec<u8>> = BTreeMap::new();
    for (program, call) in &named {
        let name = call.name.as_str();
        if READS.contains(&name) {
            continue;
        }
        for (at, text) in call.strings() {
            let place = match (name, at) {
                ("execve", 1) | ("execveat", 2) => Place::Arguments,
                ("execve", 2) | ("execveat", 3) => Place::Environment,
                _ if WRITES.contains(&name) => {
                    let (_, path) = call.descriptors().next().expect("a descriptor");
                    place(path, readers.get(path))
                }
                _ => Place::Call(name.to_owned()),
            };
            let bytes = given.entry((program.clone(), place.clone())).or_default();
            bytes.extend_from_slice(&text);
            if !WRITES.contains(&name) {
                bytes.push(0);
            }
        }
    }
    given
}

fn place(path: &[u8], readers: Option<&BTreeSet<&str>>) -> Place {
    let shown = String::from_utf8_lossy(path).into_owned();
    if shown.starts_with("pipe:") {
        return Place::Pipe(readers.into_iter().flatten().map(|reader| (*reader).to_owned()).collect());
    }
    if shown.starts_with("/dev/") && !shown.starts_with("/dev/shm/") {
        return Place::Device(shown);
    }
    if shown.starts_with('/') { Place::File(shown) } else { Place::Socket(shown) }
}

/// Which program a thread runs.
struct Programs {
    parents: HashMap<u32, u32>,
    names: HashMap<u32, String>,
}

impl Programs {
    fn of(calls: &[Call]) -> Self {
        let starts = ["clone", "clone3", "fork", "vfork"];
        let begun = calls.iter().filter(|call| starts.contains(&call.name.as_str()) && call.result > 0);
        let parents = begun.map(|call| (u32::try_from(call.result).expect("a thread"), call.thread)).collect();
        Self { parents, names: HashMap::new() }
    }

    /// The program that made this call. What was started successfully has made the call that started it.
    fn at(&mut self, call: &Call) -> String {
        if matches!(call.name.as_str(), "execve" | "execveat") && call.succeeded() {
            let at = usize::from(call.name == "execveat");
            let name = String::from_utf8_lossy(call.text(at)).rsplit('/').next().unwrap_or_default().to_owned();
            self.names.insert(call.thread, name);
        }
        let mut thread = call.thread;
        loop {
            if let Some(name) = self.names.get(&thread) {
                return name.clone();
            }
            thread = *self.parents.get(&thread).unwrap_or_else(|| panic!("no program for {call:?}"));
        }
    }
}
