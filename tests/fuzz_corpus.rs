//! The committed corpus of every fuzz target, run once in each ordinary test run. `docs/fuzzing.md` tells the rest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and names its input"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Every target by name.
fn all() -> BTreeMap<&'static str, fn(&[u8])> {
    BTreeMap::from([
        ("config", targets::config::run as fn(&[u8])),
        ("manifest", targets::manifest::run),
        ("pack", targets::pack::run),
        ("receipt", targets::receipt::run),
        ("time", targets::time::run),
    ])
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Names the input that broke a property.
struct Shown<'p>(&'p Path);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}", self.0.display());
        }
    }
}

#[test]
fn no_input_of_the_corpus_breaks_a_property() {
    for (name, run) in all() {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(fuzz().join("corpus").join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let guard = Shown(&file);
            run(&std::fs::read(&file).unwrap());
            drop(guard);
        }
    }
}

#[test]
fn every_target_has_a_program_a_dictionary_and_a_small_corpus() {
    let targets: BTreeSet<String> = all().into_keys().map(str::to_owned).collect();
    for folder in ["fuzz_targets", "dict", "corpus"] {
        assert_eq!(names_in(&fuzz().join(folder)), targets, "fuzz/{folder}");
    }
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let (mut files, mut bytes) = (0, 0);
    for target in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is not built");
        let sizes: Vec<u64> = std::fs::read_dir(fuzz().join("corpus").join(target))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        // Fewer are no corpus but a remainder.
        assert!(sizes.len() >= 20, "{target}: {} inputs", sizes.len());
        files += sizes.len();
        bytes += sizes.iter().sum::<u64>();
    }
    assert!(files < 300 && bytes < 1 << 20, "{files} files, {bytes} bytes");
}
