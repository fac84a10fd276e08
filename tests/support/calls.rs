//! System calls as strace shows them with `-f -y -v -xx`: every string in hex, every descriptor with its path.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use crate::support::opsctl::{Done, run_with, traced};

/// What strace shows in this way; a journal is written by one call.
const OPTIONS: [&str; 7] = ["-y", "-v", "-xx", "-s", "10000000", "-e", "trace=%file,%desc"];

/// Calls that are shown as the newer ones, which take a directory too.
const OLD_NAMES: [(&str, &str); 7] = [
    ("open", "openat"),
    ("mkdir", "mkdirat"),
    ("unlink", "unlinkat"),
    ("rmdir", "unlinkat"),
    ("stat", "newfstatat"),
    ("lstat", "newfstatat"),
    ("chmod", "fchmodat"),
];

/// One call that has returned.
#[derive(Clone, Debug)]
pub struct Call {
    /// The number of the thread that made it.
    pub thread: u32,
    pub name: String,
    args: Vec<Arg>,
    pub result: i64,
    /// The path of a descriptor that the call gave.
    given: Option<Vec<u8>>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    Text(Vec<u8>),
    /// A descriptor and its path; the number of `AT_FDCWD` is -100.
    Fd(i64, Vec<u8>),
    /// Anything else, as it is shown.
    Word(String),
}

/// Runs a command to its end; its calls in the order in which they returned.
pub fn record(command: &Command, log: &Path) -> (Done, Vec<Call>) {
    record_with(command, log, &OPTIONS)
}

/// The same with other options, among which `-y` or `-yy`, `-v` and `-xx` are.
pub fn record_with(command: &Command, log: &Path, options: &[&str]) -> (Done, Vec<Call>) {
    record_given(command, log, options, &[])
}

/// The same with `input` on standard input.
pub fn record_given(command: &Command, log: &Path, options: &[&str], input: &[u8]) -> (Done, Vec<Call>) {
    let done = run_with(traced(command, log, options), input);
    let text = std::fs::read_to_string(log).expect("the log of strace");
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').expect("a thread");
        let (rest, number) = (rest.trim_start(), thread.parse().expect("a number"));
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, first);
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let first = begun.remove(thread).expect("the beginning of a call");
            let (_, second) = resumed.split_once(" resumed>").expect("the end of a call");
            calls.extend(parse(number, &format!("{first}{second}")));
        } else {
            calls.extend(parse(number, rest));
        }
    }
    (done, calls)
}

/// `None` for what is no call, such as the end of a thread.
fn parse(thread: u32, line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let (args, rest) = split_args(rest);
    let result = rest.trim_start().strip_prefix("= ")?;
    let number = result.split(|c: char| !c.is_ascii_digit() && c != '-').next()?;
    let given = result.split_once('<').filter(|(fd, _)| *fd == number).map(|(_, path)| unhex(path));
    // The name of a thread is shown as cut when it has all the bytes that it may have.
    let whole = |arg: &&str| -> Arg { argument(arg.strip_suffix("...").filter(|_| name == "prctl").unwrap_or(arg)) };
    let mut args: Vec<Arg> = args.iter().map(whole).collect();
    let name = match OLD_NAMES.iter().find(|(old, _)| *old == name) {
        Some((_, new)) => {
            args.insert(0, Arg::Fd(-100, Vec::new()));
            *new
        }
        None => name,
    };
    Some(Call { thread, name: name.to_owned(), args, result: number.parse().unwrap_or(-1), given })
}

/// The arguments, and what follows them.
fn split_args(text: &str) -> (Vec<&str>, &str) {
    let (mut args, mut depth, mut begin, mut is_text) = (Vec::new(), 0, 0, false);
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'(' | b'{' | b'[' => depth += 1,
            b')' if depth == 0 => {
                args.push(text[begin..at].trim());
                return (args, &text[at + 1..]);
            }
            b')' | b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                args.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    (args, "")
}

fn argument(text: &str) -> Arg {
    if let Some(text) = text.strip_prefix('"') {
        assert!(text.ends_with('"'), "strace has cut a string");
        return Arg::Text(unhex(text));
    }
    if let Some((fd, path)) = text.split_once('<') {
        let number = if fd == "AT_FDCWD" { Some(-100) } else { fd.parse().ok() };
        if let Some(number) = number {
            // With `-yy` a socket is shown by its addresses.
            let shown = path.strip_suffix('>').unwrap_or(path);
            return Arg::Fd(number, if path.starts_with('\\') { unhex(path) } else { shown.into() });
        }
    }
    Arg::Word(text.to_owned())
}

/// The bytes of a string of `\x..`, up to its end.
fn unhex(text: &str) -> Vec<u8> {
    let hex = text.split(['"', '<', '>']).next().unwrap();
    hex.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

impl Call {
    pub fn succeeded(&self) -> bool {
        self.result >= 0
    }

    /// All descriptors with their paths.
    pub fn descriptors(&self) -> impl Iterator<Item = (i64, &[u8])> {
        let taken = self.args.iter().filter_map(|arg| match arg {
            Arg::Fd(fd, path) => Some((*fd, path.as_slice())),
            _ => None,
        });
        taken.chain(self.given.iter().map(|path| (self.result, path.as_slice())))
    }

    /// Every string in the arguments, also in lists and structures, with the place of its argument.
    pub fn strings(&self) -> Vec<(usize, Vec<u8>)> {
        let of = |arg: &Arg| match arg {
            Arg::Text(text) => vec![text.clone()],
            Arg::Fd(..) => Vec::new(),
            Arg::Word(word) => word.split('"').skip(1).step_by(2).map(unhex).collect(),
        };
        self.args.iter().enumerate().flat_map(|(at, arg)| of(arg).into_iter().map(move |text| (at, text))).collect()
    }

    pub fn fd(&self, at: usize) -> i64 {
        match &self.args[at] {
            Arg::Fd(fd, _) => *fd,
            other => panic!("no descriptor: {other:?} of {self:?}"),
        }
    }

    /// The descriptor of the directory that a path is relative to.
    pub fn directory(&self, at: usize) -> Option<i64> {
        matches!(self.args[at], Arg::Fd(..)).then(|| self.fd(at))
    }

    pub fn text(&self, at: usize) -> &[u8] {
        match &self.args[at] {
            Arg::Text(text) => text,
            other => panic!("no text: {other:?} of {self:?}"),
        }
    }

    fn word(&self, at: usize) -> &str {
        match self.args.get(at) {
            Some(Arg::Word(word)) => word,
            _ => "",
        }
    }

    pub fn is_null(&self, at: usize) -> bool {
        self.word(at) == "NULL"
    }

    pub fn has_flag(&self, at: usize, flag: &str) -> bool {
        self.word(at).split('|').any(|word| word == flag)
    }

    pub fn number(&self, at: usize) -> i64 {
        self.word(at).parse().unwrap_or_else(|_| panic!("no number at {at}: {self:?}"))
    }

    /// Permission bits, which strace shows in octal.
    pub fn mode(&self, at: usize) -> u32 {
        let digits = self.word(at).rsplit('|').next().unwrap();
        u32::from_str_radix(digits, 8).unwrap_or_else(|_| panic!("no mode at {at}: {self:?}"))
    }

    /// User and group, of which -1 stays as it is: the tests have one user only.
    pub fn owner(&self, at: usize) -> (u32, u32) {
        let id = |at| u32::try_from(self.number(at)).unwrap();
        (id(at), id(at + 1))
    }

    /// The second of two times: outside `None` where it stays as it is, inside where it is the present.
    #[allow(clippy::option_option, reason = "two questions: is it set, and to what")]
    pub fn mtime(&self, at: usize) -> Option<Option<(i64, i64)>> {
        let times = self.word(at);
        if self.is_null(at) || times.ends_with("UTIME_NOW]") {
            return Some(None);
        }
        if times.ends_with("UTIME_OMIT]") {
            return None;
        }
        let (_, second) = times.rsplit_once('{').expect("two times");
        let field = |name| {
            let text = second.split_once(name)?.1;
            text.split(|c: char| !c.is_ascii_digit() && c != '-').next()?.parse().ok()
        };
        Some(field("tv_sec=").zip(field("tv_nsec=")))
    }

    /// The inode number in what a `stat` shows.
    pub fn inode_number(&self) -> Option<u64> {
        self.args.iter().find_map(|arg| {
            let Arg::Word(word) = arg else { return None };
            let text = word.split_once("_ino=")?.1;
            text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })
    }
}
