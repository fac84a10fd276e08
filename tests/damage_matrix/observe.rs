//! Runs the program on a damaged store and says where it does not do what the cell expects.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use opsctl::archive::layout;
use opsctl::archive::packlist;
use opsctl::archive::receipt::Receipt;
use serde_json::Value;

use crate::cells::{Applied, apply};
use crate::expect::{Cell, Damage, Gets, Next, Seen, Snap};
use crate::site::{Copy, Site};
use crate::support::opsctl::{Done, run, url};
use crate::support::tree::Tree;

const LEVELS: [&str; 3] = ["list", "hash", "decrypt"];

/// One cell under way.
struct Case<'s> {
    site: &'s Site,
    cell: &'s Cell,
    copy: Copy,
    applied: Applied,
    wrong: RefCell<Vec<String>>,
}

/// Everything in which the program does not do what `cell` says.
pub fn wrong(site: &Site, cell: &Cell) -> Vec<String> {
    let copy = Copy::of(&site.bench);
    let applied = apply(site, &copy, cell.object, cell.damage);
    let case = Case { site, cell, copy, applied, wrong: RefCell::default() };
    case.check();
    case.list();
    for snap in Snap::TAKEN {
        let taken = site.taken(snap);
        case.restore(&taken.id, taken.source, &taken.tree, cell.gets(snap), &format!("{snap:?}"));
    }
    if cell.believes_planted() {
        let (id, tree) = (case.id(Snap::Planted), &site.taken(Snap::Three).tree);
        case.restore(&id, "production", tree, cell.gets(Snap::Planted), "what was added");
    }
    case.choices();
    case.next();
    case.wrong.into_inner()
}

impl Case<'_> {
    fn must(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.borrow_mut().push(what());
        }
    }

    fn command<S: AsRef<OsStr>>(&self, source: Option<&str>, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = crate::support::opsctl_process();
        command.env("OPSCTL_STORE", url(&self.copy.store)).arg("--json").args(args);
        command.env("OPSCTL_IDENTITY_FILE", &self.site.bench.identity);
        if let Some(source) = source {
            command.env("OPSCTL_SOURCE", source);
        }
        command
    }

    fn id(&self, snap: Snap) -> String {
        match snap {
            Snap::Planted => self.applied.planted.clone().unwrap(),
            snap => self.site.taken(snap).id.clone(),
        }
    }

    // ---- check ----

    fn check(&self) {
        for (number, level) in LEVELS.into_iter().enumerate() {
            let done = run(self.command(None, ["check", "--level", level]));
            let is_seen = matches!(self.cell.seen, Seen::At(first) if number >= first as usize);
            let code = if is_seen { 4 } else { 0 };
            self.must(done.code == code, || format!("check {level} ends {} not {code}: {}", done.code, said(&done)));
            let damaged = done.json["damaged"].as_array().cloned().unwrap_or_default();
            if is_seen {
                self.findings(level, &damaged, self.cell.files());
            } else {
                self.must(damaged.is_empty(), || format!("check {level} finds {damaged:?}"));
            }
            let is_warned = self.applied.objects.iter().all(|name| is_told_of(&done, name));
            let must_warn = self.cell.seen == Seen::Warned;
            self.must(!must_warn || is_warned, || format!("check {level} does not warn: {}", said(&done)));
            let is_silent = self.cell.seen == Seen::Never && done.json["warnings"] == serde_json::json!([]);
            self.must(self.cell.seen != Seen::Never || is_silent, || format!("check {level} warns: {}", said(&done)));
        }
        // An auditor without a key learns the same of packs and pack lists, but for the names of files.
        if let (Seen::At(first), false) = (self.cell.seen, self.cell.object.is_document()) {
            let level = LEVELS[first as usize];
            let mut keyless = self.command(None, ["check", "--level", level]);
            keyless.env_remove("OPSCTL_IDENTITY_FILE");
            let done = run(keyless);
            self.must(done.code == 4, || format!("check {level} without a key ends {}: {}", done.code, said(&done)));
            self.findings(level, done.json["damaged"].as_array().map_or(&[], Vec::as_slice), &[]);
        }
    }

    /// Exactly the objects that were damaged, with the snapshots and files that need them.
    fn findings(&self, level: &str, damaged: &[Value], files: &[&str]) {
        let expected: BTreeSet<String> = self.applied.objects.iter().cloned().collect();
        let (ours, others): (Vec<&Value>, Vec<&Value>) =
            damaged.iter().partition(|found| expected.contains(found["object"].as_str().unwrap()));
        let texts = |found: &[&Value], key: &str| {
            let lists = found.iter().flat_map(|f| f[key].as_array().unwrap());
            lists.map(|text| text.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        let objects: BTreeSet<String> = ours.iter().map(|f| f["object"].as_str().unwrap().to_owned()).collect();
        self.must(objects == expected, || format!("check {level} names {objects:?}, not {expected:?}"));
        let snapshots = texts(&ours, "snapshots");
        let hurt: BTreeSet<String> = self.cell.names.iter().map(|snap| self.id(*snap)).collect();
        self.must(snapshots == hurt, || {
            format!("check {level} names the snapshots {snapshots:?}, not {hurt:?}: {ours:?}")
        });
        let lost: BTreeSet<String> = files.iter().map(|file| (*file).to_owned()).collect();
        let files = texts(&ours, "files");
        self.must(files == lost, || format!("check {level} names the files {files:?}, not {lost:?}"));
        // A manifest that cannot be read is the fault of its pack, and is told of the receipt besides.
        for other in others {
            let object = other["object"].as_str().unwrap();
            let of_manifest = Snap::TAKEN.into_iter().any(|snap| {
                object == self.site.receipt(snap) && matches!(self.cell.gets(snap), Gets::Nothing | Gets::Gap)
            });
            let no_keys = object == "keys/" && self.cell.object.is_keys() && self.cell.damage == Damage::Swap;
            self.must(of_manifest || no_keys, || format!("check {level} blames {other}"));
        }
    }

    // ---- list ----

    fn list(&self) {
        let done = run(self.command(None, ["list"]));
        self.must(done.code == 0, || format!("list ends {}: {}", done.code, said(&done)));
        let state = |key: &str| {
            let id = key.rsplit('/').next().unwrap().trim_end_matches(".json");
            let source = key.split('/').nth(1).unwrap();
            let rows = done.json["snapshots"].as_array().unwrap();
            if let Some(row) = rows.iter().find(|row| row["id"] == id && row["source"] == source) {
                return row["trust"].as_str().unwrap().to_owned();
            }
            let problems = done.json["problems"].as_array().unwrap();
            if problems.iter().any(|row| row["object"] == key && row["reason"] != "") { "rejected" } else { "absent" }
                .into()
        };
        for snap in Snap::TAKEN {
            let expected = match self.cell.gets(snap) {
                Gets::Refused => "rejected",
                Gets::Gone => "absent",
                _ => "trusted",
            };
            let found = state(&self.site.receipt(snap));
            self.must(found == expected, || format!("list shows {snap:?} as {found}, not {expected}"));
        }
        if self.applied.planted.is_some() {
            let found = state(&self.applied.objects[0]);
            let expected = if self.cell.believes_planted() { "trusted" } else { "rejected" };
            self.must(found == expected, || format!("list shows what was added as {found}, not {expected}"));
        }
        if self.cell.object.is_document() && matches!(self.cell.seen, Seen::At(_)) {
            let says = self.applied.objects.iter().all(|name| is_told_of(&done, name));
            self.must(says, || format!("list does not name {:?}: {}", self.applied.objects, said(&done)));
        }
    }

    // ---- restore ----

    /// Restores one snapshot by its id and compares: every file is equal or absent, whatever else is expected.
    fn restore(&self, id: &str, source: &str, tree: &Tree, expected: Gets, what: &str) {
        let to = self.copy.dir.join(format!("to-{what}"));
        let done = run(self.command(Some(source), ["restore", "--snapshot", id, "--to", to.to_str().unwrap()]));
        let (missing, mut odd) =
            if to.exists() { differences(tree, &Tree::read(&to)) } else { (all_of(tree), Vec::new()) };
        if expected == Gets::Gap {
            // A folder that is named below the lost range only: made for its content, for nobody else to look into.
            odd.retain(|line| !line.starts_with("~ n: mtime") && line != "~ n: mode 0755 | 0700");
        }
        self.must(odd.is_empty(), || format!("{what} is restored wrong: {odd:?}"));
        let code = match expected {
            Gets::All => 0,
            Gets::Gone => 10,
            _ => 4,
        };
        self.must(done.code == code, || format!("restore of {what} ends {}, not {code}: {}", done.code, said(&done)));
        let everything = all_of(tree).len();
        let is_right = match expected {
            Gets::All => missing.is_empty(),
            Gets::Loses(count, of) => missing.len() == count && missing.iter().all(|path| of.contains(&path.as_str())),
            Gets::Gap => {
                let ranges = ranges(&done);
                let is_named = |path: &String| ranges.iter().any(|(from, to)| is_between(path, from, to.as_deref()));
                !missing.is_empty() && missing.len() < everything && missing.iter().all(is_named)
            }
            Gets::Nothing => missing.len() == everything,
            Gets::Refused | Gets::Gone => !to.exists(),
        };
        self.must(is_right, || format!("restore of {what} loses {missing:?}: {}", said(&done)));
        let mut named: Vec<&str> = match expected {
            Gets::Loses(..) => missing.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        named.extend((expected != Gets::All).then_some(id));
        named.retain(|part| !done.says(part));
        self.must(named.is_empty(), || format!("restore of {what} does not say {named:?}: {}", said(&done)));
        let mut blamed: Vec<&String> = self.applied.objects.iter().filter(|object| self.needs(id, object)).collect();
        blamed.retain(|object| code == 4 && !done.says(object));
        self.must(blamed.is_empty(), || format!("restore of {what} does not name {blamed:?}: {}", said(&done)));
    }

    /// Whether a snapshot needs an object; of one that was added or taken later, any.
    fn needs(&self, id: &str, object: &str) -> bool {
        let Some(snap) = Snap::TAKEN.into_iter().find(|snap| self.site.taken(*snap).id == id) else { return true };
        let taken = self.site.taken(snap);
        if self.cell.object.is_pack() {
            return taken.packs.iter().any(|line| layout::pack(line.pack) == object);
        }
        object == layout::pack_list(taken.receipt.pack_list) || object == self.site.receipt(snap)
    }

    /// `latest` and `--at` give the newest that is believed, and say what newer one they passed over.
    fn choices(&self) {
        let is_there = |snap: &Snap| !matches!(self.cell.gets(*snap), Gets::Refused | Gets::Gone);
        let production = [Snap::Three, Snap::Two, Snap::One];
        let end_of_two = self.site.taken(Snap::Two).receipt.finished_at.to_string();
        let tomorrow = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24)).to_string();
        let newest = production.into_iter().find(is_there);
        let by_two = production.into_iter().filter(|snap| *snap != Snap::Three).find(is_there);
        let newest = if self.cell.believes_planted() { Some(Snap::Planted) } else { newest };
        let asked = [
            ("production", vec![], newest, production.to_vec()),
            ("production", vec!["--at", &tomorrow], newest, production.to_vec()),
            ("production", vec!["--at", &end_of_two], by_two, vec![Snap::Two, Snap::One]),
            ("staging", vec![], Some(Snap::Other), vec![]),
        ];
        for (source, at, chosen, fits) in asked {
            let to = self.copy.dir.join("plan");
            let args = ["restore", "--dry-run", "--to", to.to_str().unwrap()];
            let done = run(self.command(Some(source), args.into_iter().chain(at.iter().copied())));
            let Some(chosen) = chosen else {
                // Nothing older is left: refused, with the newest that does not count.
                let says = done.code == 4 && fits.first().is_some_and(|snap| done.says(&self.id(*snap)));
                self.must(says, || format!("{source} {at:?} ends {}: {}", done.code, said(&done)));
                continue;
            };
            let says = format!("restoring snapshot {} of {source}", self.id(chosen));
            self.must(done.says(&says), || format!("{source} {at:?} does not give {chosen:?}: {}", said(&done)));
            let is_newer = |snap: &&Snap| **snap > chosen && self.cell.gets(**snap) == Gets::Refused;
            let mut skipped: Vec<String> = fits.iter().filter(is_newer).map(|snap| self.id(*snap)).collect();
            let is_asked = self.planted_source() == Some(source) && fits.first() != Some(&Snap::Two);
            // Ids are in the order of time.
            let is_newer = |id: &String| is_asked && !self.cell.believes_planted() && *id > self.id(chosen);
            skipped.extend(self.applied.planted.clone().filter(is_newer));
            let is_said =
                |id: &String| done.stderr.lines().any(|line| line.contains(id) && line.contains("is skipped: "));
            let silent: Vec<&String> = skipped.iter().filter(|id| !is_said(id)).collect();
            self.must(silent.is_empty(), || {
                format!("{source} {at:?} passes over {silent:?} in silence: {}", said(&done))
            });
        }
    }

    fn planted_source(&self) -> Option<&'static str> {
        let staging = self.cell.damage == Damage::CopiedOut;
        self.applied.planted.as_ref().map(|_| if staging { "staging" } else { "production" })
    }

    // ---- the next snapshot ----

    fn next(&self) {
        let site = self.site;
        let source = self.planted_source().unwrap_or("production");
        let (dir, tree): (&PathBuf, &Tree) = match source {
            "staging" => (&site.staging, &site.taken(Snap::Other).tree),
            _ => (&site.bench.tree, &site.live),
        };
        let mut command = site.bench.snapshot_of(dir, ["--source", source]);
        command.env("OPSCTL_STORE", url(&self.copy.store)).env("OPSCTL_STATE_DIR", &self.copy.state);
        let done = run(command);
        let code = match self.cell.next {
            Next::Refuses(code) => code,
            _ => 0,
        };
        self.must(done.code == code, || format!("the next snapshot ends {}, not {code}: {}", done.code, said(&done)));
        if self.cell.next == Next::Said {
            let says = self.applied.objects.iter().all(|name| is_told_of(&done, name));
            self.must(says, || format!("the next snapshot does not name {:?}: {}", self.applied.objects, said(&done)));
        }
        if done.code != 0 || code != 0 {
            return;
        }
        let gets = match self.cell.next {
            Next::Hurt => self.cell.gets(Snap::Three),
            _ => Gets::All,
        };
        let id = done.id().to_owned();
        self.restore(&id, source, tree, gets, "the next snapshot");

        // Nobody has made the host encrypt to another than it did.
        let receipt = self.copy.get(&format!("snapshots/{source}/{id}.json"));
        let receipt = Receipt::read(source, &id.parse().unwrap(), &receipt).unwrap();
        let lines = self.copy.get(&layout::pack_list(receipt.pack_list));
        let keys: BTreeSet<_> =
            packlist::read(receipt.pack_list, &lines).unwrap().iter().map(|line| line.keys).collect();
        let before: BTreeSet<_> = site.taken(Snap::Three).packs.iter().map(|line| line.keys).collect();
        self.must(keys == before, || "the next snapshot is encrypted to other recipients".to_owned());
    }
}

/// Whether a listing or a warning tells of an object: by its name, or of a receipt as they do of snapshots, by source and id.
fn is_told_of(done: &Done, name: &str) -> bool {
    let is_snapshot = |(source, id): (&str, &str)| done.says(source) && done.says(id.trim_end_matches(".json"));
    let snapshot = name.strip_prefix("snapshots/").and_then(|name| name.split_once('/'));
    done.says(name) || snapshot.is_some_and(is_snapshot)
}

/// The ranges of lost paths that a restore tells: the first path, and the first after it.
fn ranges(done: &Done) -> Vec<(String, Option<String>)> {
    let error = done.error();
    let quoted = |text: &str| text.split('"').nth(1).unwrap().to_owned();
    let range = |text: &str| {
        let after = text.split_once(" up to, not including, ").filter(|(from, _)| from.matches('"').count() == 2);
        (quoted(text), after.map(|(_, after)| quoted(after)))
    };
    error.split("every path from ").skip(1).map(range).collect()
}

/// In the order of a manifest: by component.
fn is_between(path: &str, from: &str, to: Option<&str>) -> bool {
    let components = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let path = components(path);
    components(from) <= path && to.is_none_or(|to| path < components(to))
}

fn said(done: &Done) -> String {
    format!("{} {}", done.stdout, done.stderr)
}

fn all_of(tree: &Tree) -> Vec<String> {
    let shown = |path: &Vec<u8>| String::from_utf8(path.clone()).unwrap();
    tree.0.keys().filter(|path| !path.is_empty()).map(shown).collect()
}

/// The paths that are missing, and every other difference.
fn differences(tree: &Tree, restored: &Tree) -> (Vec<String>, Vec<String>) {
    let is_missing = |path: &&Vec<u8>| !path.is_empty() && !restored.0.contains_key(*path);
    let missing = tree.0.keys().filter(is_missing).map(|path| String::from_utf8(path.clone()).unwrap()).collect();
    let odd = tree.differences(restored).into_iter().filter(|line| !line.starts_with("- ")).collect();
    (missing, odd)
}
