//! The commands of a runbook, as they stand in it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::ffi::OsString;
use std::os::unix::fs::symlink;

use crate::support::TestDir;

/// The fenced blocks of a language, each with the line that it begins on.
pub fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        match (&mut open, line.trim().strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.trim().to_owned(), at + 2, String::new())),
            (None, None) => {}
            (Some(_), Some("")) => found.extend(open.take()),
            (Some((_, _, content)), _) => {
                content.push_str(line);
                content.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block does not end");
    found.into_iter().filter(|(of, ..)| of == language).map(|(_, at, content)| (at, content)).collect()
}

/// A PATH on which `opsctl` is the one that was built.
pub fn path_with_opsctl(dir: &TestDir) -> OsString {
    let bin = dir.mkdir("bin");
    let link = bin.join("opsctl");
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_opsctl"), link).unwrap();
    }
    let rest = std::env::var_os("PATH").expect("PATH is set");
    std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&rest))).unwrap()
}
