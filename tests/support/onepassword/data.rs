//! Data about 1Password that was written down and is no part of the project.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Such a file, if it is at hand. If not, that is said, with what is therefore not tested.
pub fn recorded(name: &str, not_tested: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/data");
    let folder = std::env::var_os("OPSCTL_TEST_RECORDINGS").map_or_else(beside, PathBuf::from);
    let file = folder.join(name);
    if file.is_file() {
        return Some(file);
    }
    // Not by a macro, which is not shown when the test passes.
    let line = format!("NOT TESTED: {not_tested}: {name} is not at hand (OPSCTL_TEST_RECORDINGS names its folder)\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    None
}
