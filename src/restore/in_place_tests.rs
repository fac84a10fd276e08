//! What the command line cannot reach of a restore in place: forged records, an exchange of three renames that was cut
//! off, a file that changes between two looks.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::XattrFlags;

use super::dirs::Dirs;
use super::journal::{Journal, Kept, Phase, Swap};
use super::keep::{Policy, Survey};
use super::reuse::{Found, Reuse};
use super::select::Selection;
use super::spine::Meta;
use super::state::Task;
use super::swap::{self, Trees};
use super::target_tests::{ID, begun, file, path, task};
use crate::archive::entry::{Database, Entry, Kind};
use crate::cancel::Cancel;
use crate::exit::ExitCode;
use crate::filter::Patterns;

fn open(dir: &Path) -> Arc<OwnedFd> {
    Arc::new(fs::File::open(dir).unwrap().into())
}

fn policy(include: &[&str], exclude: &[&str], excluded: &[&str], recoverable: &[&str]) -> Policy {
    let patterns = |texts: &[&str]| Patterns::new(texts).unwrap();
    Policy {
        selection: Selection { include: patterns(include), exclude: patterns(exclude) },
        not_ours: vec![path("lost+found"), path("var/store")],
        excluded: patterns(excluded),
        recoverable: recoverable.iter().map(path).collect(),
        side_files: std::collections::HashSet::new(),
    }
}

// ---- what is replaced ----

#[test]
fn what_is_replaced_is_what_was_asked_for_and_could_be_in_the_snapshot() {
    let all = policy(&[], &[], &[], &[]);
    let part = policy(&["workspace"], &["*.log"], &[], &[]);
    let left_out = policy(&[], &[], &["node_modules", "/top/*.tmp"], &["sidecars"]);
    let rows: [(&Policy, &[&str], &[&str]); 3] = [
        (
            &all,
            &["a", "a/b", ".opsctl2", "var", "lost", "a/lost+found", "a/.opsctl"],
            &[".opsctl", ".opsctl/restore-1/a", "lost+found", "lost+found/#1", "var/store", "var/store/packs/a"],
        ),
        (&part, &["workspace", "workspace/a"], &["a", "workspaces", "workspace/a.log", "workspace/x.log/y"]),
        (
            &left_out,
            &["a/modules", "top/a", "top/b/c.tmp", "a/sidecars"],
            &["node_modules", "a/node_modules/b", "top/a.tmp", "sidecars", "sidecars/bin/opencode"],
        ),
    ];
    for (policy, replaced, stays) in rows {
        for (names, expected) in [(replaced, true), (stays, false)] {
            names.iter().for_each(|name| assert_eq!(policy.replaces(&path(name)), expected, "{name}"));
        }
    }
}

fn database(at: &str) -> Entry {
    let (kind, journal_mode) = ("sqlite".to_owned(), "wal".to_owned());
    let database = Some(Database { kind, journal_mode, page_size: 4096, left_out: Vec::new() });
    Entry { database, ..file(at, b"SQLite") }
}

#[test]
fn side_files_of_a_restored_database_give_way_whatever_was_asked_for() {
    let mut policy = policy(&["app.db"], &["*-journal"], &["*-wal"], &[]);
    policy.add_database(&database("app.db"));
    policy.add_database(&file("plain", b"no database"));
    for name in ["app.db-wal", "app.db-shm", "app.db-journal"] {
        assert!(policy.replaces(&path(name)), "{name}");
    }
    assert!(!policy.replaces(&path("plain-wal")) && !policy.replaces(&path("sub/app.db-wal")));
    policy.add_database(&database("lost+found/app.db"));
    assert!(!policy.replaces(&path("lost+found/app.db-wal")), "what is not ours is not ours");
}

// ---- records ----

#[test]
fn a_record_that_names_anything_but_its_own_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = open(dir.path());
    let good = Journal::begin("20260307T140000Z-01234567", Phase::Swapping, task(ID));
    good.write(folder.as_fd()).unwrap();
    assert!(Journal::read(folder.as_fd()).unwrap().is_some());
    let change = |name: &str, key: &str, value: serde_json::Value| {
        let place = dir.path().join(name);
        let text = fs::read(&place).unwrap();
        let mut document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        document[key] = value;
        fs::write(&place, document.to_string()).unwrap();
        text
    };
    let step = |path: &str| serde_json::json!({"steps": [{"path": path, "old": null, "new": null}], "spine": []});
    for (key, value) in [
        ("folder", "../..".into()),
        ("folder", "restore-other".into()),
        ("folder", "previous-20260307T140000Z-01234567".into()),
        ("id", "../../etc".into()),
        ("id", "".into()),
        ("type", "opsctl-previous".into()),
        ("format", 2.into()),
        ("phase", "resting".into()),
        ("swap", step("../outside")),
        ("swap", step("/etc")),
    ] {
        let text = change("journal.json", key, value.clone());
        let read = Journal::read(folder.as_fd());
        assert_eq!(read.unwrap_err().code(), ExitCode::Integrity, "{key}: {value}");
        fs::write(dir.path().join("journal.json"), text).unwrap();
    }
    // A folder that fits an id that is none.
    let hostile = Journal::begin("x/../../outside", Phase::Swapping, task(ID));
    hostile.write(folder.as_fd()).unwrap();
    assert_eq!(Journal::read(folder.as_fd()).unwrap_err().code(), ExitCode::Integrity);

    Kept::of(&good, "2026-03-07T14:00:00Z".to_owned()).write(folder.as_fd()).unwrap();
    assert_eq!(Kept::read(folder.as_fd()).unwrap().unwrap().folder(), "previous-20260307T140000Z-01234567");
    change("previous.json", "id", "../../outside".into());
    assert_eq!(Kept::read(folder.as_fd()).unwrap_err().code(), ExitCode::Integrity);
    // A link in the place of a record is not followed.
    fs::rename(dir.path().join("journal.json"), dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", dir.path().join("journal.json")).unwrap();
    assert!(Journal::read(folder.as_fd()).is_err());
}

#[test]
fn an_exchange_taken_back_twice_is_the_exchange() {
    let swap = Scene::new().plan();
    assert!(!swap.steps.is_empty() && swap.reversed() != swap);
    assert_eq!(swap.reversed().reversed(), swap);
}

// ---- metadata of directories that stay ----

/// An access control list as the kernel has it: tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let one =
        |(tag, perm, id): &(u16, u16, u32)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    [2_u32.to_le_bytes().to_vec(), entries.iter().flat_map(one).collect()].concat()
}

#[test]
fn a_directory_gets_all_metadata_of_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for dir in [&one, &two] {
        fs::create_dir(dir).unwrap();
    }
    let set =
        |dir: &Path, name: &str, value: &[u8]| rustix::fs::setxattr(dir, name, value, XattrFlags::empty()).unwrap();
    const NOBODY: u32 = u32::MAX;
    let list = acl(&[(1, 7, NOBODY), (2, 4, 1234), (4, 5, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)]);
    set(&one, "user.note", b"one \0 \xff");
    set(&one, "system.posix_acl_default", &list);
    fs::set_permissions(&one, fs::Permissions::from_mode(0o2751)).unwrap();
    set(&one, "system.posix_acl_access", &list);
    set(&two, "user.other", b"two");
    fs::set_permissions(&two, fs::Permissions::from_mode(0o500)).unwrap();
    let read = |dir: &Path| Meta::read(open(dir).as_fd(), fs::metadata(dir).unwrap().mode()).unwrap();
    let (first, second) = (read(&one), read(&two));
    assert_ne!(first, second);
    // Through the journal, which is text.
    let through = |meta: &Meta| -> Meta { serde_json::from_str(&serde_json::to_string(meta).unwrap()).unwrap() };
    for _ in 0..2 {
        through(&first).apply(open(&two).as_fd()).unwrap();
        through(&second).apply(open(&one).as_fd()).unwrap();
        assert_eq!((read(&two), read(&one)), (first.clone(), second.clone()));
    }
}

// ---- the exchange ----

/// A live tree and a staged one, with an entry of each kind: in both, in one, and in the other.
struct Scene {
    dir: tempfile::TempDir,
    trees: Trees,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join(".opsctl/restore-1");
        fs::create_dir_all(&other).unwrap();
        for (tree, names) in [(dir.path().to_owned(), ["both", "gone"]), (other.clone(), ["both", "made"])] {
            for name in names {
                fs::create_dir(tree.join(name)).unwrap();
                fs::write(tree.join(name).join("of"), if tree == other { "new" } else { "old" }).unwrap();
            }
        }
        let (folder, live) = (open(&dir.path().join(".opsctl")), Dirs::new(open(dir.path())));
        Self { trees: Trees { folder, live, other: Dirs::new(open(&other)) }, dir }
    }

    fn plan(&self) -> Swap {
        let policy = policy(&[], &[], &[], &[]);
        let survey = Survey::of(&self.trees.live, &policy, &Cancel::default()).unwrap();
        swap::plan(&self.trees, &policy, &survey).unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    #[track_caller]
    fn assert_live(&self, what: &str) {
        let says = |at: &str| fs::read_to_string(self.at(at).join("of")).ok();
        let (here, there) = if what == "new" { ("new", "old") } else { ("old", "new") };
        assert_eq!(says("both").as_deref(), Some(here));
        assert_eq!(says(".opsctl/restore-1/both").as_deref(), Some(there));
        for (name, of) in [("gone", "old"), ("made", "new")] {
            assert_eq!(says(name).is_some(), of == here, "{name}");
            assert_eq!(says(&format!(".opsctl/restore-1/{name}")).is_some(), of == there, "{name}");
        }
        assert!(!self.at(".opsctl/aside").exists());
    }
}

#[test]
fn an_exchange_of_three_renames_is_finished_or_taken_back_from_each() {
    // What was live is aside; then also what is new is live; and the same on the way back.
    let cuts: [(bool, &[(&str, &str)]); 4] = [
        (false, &[("both", ".opsctl/aside")]),
        (false, &[("both", ".opsctl/aside"), (".opsctl/restore-1/both", "both")]),
        (true, &[("both", ".opsctl/aside")]),
        (true, &[("both", ".opsctl/aside"), (".opsctl/restore-1/both", "both")]),
    ];
    for (on_the_way_back, renames) in cuts {
        for forward in [true, false] {
            let scene = Scene::new();
            let swap = scene.plan();
            if on_the_way_back {
                swap::run(&swap, &scene.trees).unwrap();
                scene.assert_live("new");
            }
            renames.iter().for_each(|(from, to)| scene.rename(from, to));
            let (towards, expected) = if forward { (swap.clone(), "new") } else { (swap.reversed(), "old") };
            for _ in 0..2 {
                swap::run(&towards, &scene.trees).unwrap_or_else(|error| panic!("{}", error.full_message()));
                scene.assert_live(expected);
            }
        }
    }
}

#[test]
fn side_files_change_places_before_their_database() {
    let scene = Scene::new();
    for name in ["app.db", "app.db-journal", "app.db-shm", "app.db-wal"] {
        fs::write(scene.at(name), "old").unwrap();
    }
    fs::write(scene.at(".opsctl/restore-1/app.db"), "new").unwrap();
    let names: Vec<Vec<u8>> = scene.plan().steps.iter().map(|step| step.path.as_bytes().to_vec()).collect();
    let at = |name: &str| names.iter().position(|found| found == name.as_bytes()).unwrap();
    for side in ["app.db-journal", "app.db-shm", "app.db-wal"] {
        assert!(at(side) < at("app.db"), "{side}");
    }
}

#[test]
fn nothing_is_exchanged_with_something_that_the_journal_does_not_know() {
    let scene = Scene::new();
    let swap = scene.plan();
    scene.rename(".opsctl/restore-1/both", "elsewhere");
    fs::create_dir(scene.at(".opsctl/restore-1/both")).unwrap();
    let error = swap::run(&swap, &scene.trees).unwrap_err();
    assert_eq!(error.code(), ExitCode::Integrity, "{}", error.full_message());
    assert_eq!(fs::read_to_string(scene.at("both/of")).unwrap(), "old");

    let scene = Scene::new();
    let swap = scene.plan();
    fs::write(scene.at(".opsctl/aside"), "of nobody").unwrap();
    assert_eq!(swap::run(&swap, &scene.trees).unwrap_err().code(), ExitCode::Integrity);
    fs::remove_file(scene.at(".opsctl/aside")).unwrap();
    scene.assert_live("old");
}

// ---- reuse ----

/// Bytes that were said to be done.
#[derive(Default)]
struct Told(std::sync::atomic::AtomicU64);

impl crate::progress::Progress for Told {
    fn advance(&self, bytes: u64) {
        self.0.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_live_file_that_changes_after_it_was_looked_at_is_not_taken() {
    let (live, stage) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = ["kept", "rewritten", "replaced", "truncated", "gone"];
    let entries: Vec<Entry> = names.iter().map(|name| file(name, b"content")).collect();
    names.iter().for_each(|name| fs::write(live.path().join(name), "content").unwrap());
    let mut reuse = Reuse::new(Dirs::new(open(live.path())), &Cancel::default());
    let wanted: Vec<&Entry> = entries.iter().collect();
    let found = reuse.look_for(&wanted, &()).unwrap();
    assert!(found.iter().all(|found| matches!(found, Found::Same(_))), "{found:?}");

    let back_in_time = |name: &str| {
        let time = fs::metadata(live.path().join("kept")).unwrap().modified().unwrap();
        fs::File::open(live.path().join(name)).unwrap().set_modified(time).unwrap();
    };
    fs::write(live.path().join("rewritten"), "CONTENT").unwrap();
    back_in_time("rewritten");
    fs::remove_file(live.path().join("replaced")).unwrap();
    fs::write(live.path().join("replaced"), "CONTENT").unwrap();
    fs::write(live.path().join("truncated"), "").unwrap();
    fs::remove_file(live.path().join("gone")).unwrap();
    let (target, told) = (begun(&stage.path().join("new")), Told::default());
    let taken = reuse.take(&target, &wanted, &told).unwrap();
    assert_eq!(taken, [true, false, false, false, false]);
    assert_eq!(told.0.into_inner(), 7, "what is taken is progress, however it is taken");
    assert_eq!(fs::read(stage.path().join("new/kept")).unwrap(), b"content");
    assert!(names[1..].iter().all(|name| !stage.path().join("new").join(name).exists()));
}

#[test]
fn only_regular_files_and_equal_links_count_as_right() {
    let live = tempfile::tempdir().unwrap();
    fs::write(live.path().join("outside"), "content").unwrap();
    std::os::unix::fs::symlink("outside", live.path().join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        live.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::create_dir(live.path().join("dir")).unwrap();
    let mut reuse = Reuse::new(Dirs::new(open(live.path())), &Cancel::default());
    let link_to = |target: &str| {
        let mut entry = Entry::new(path("link"), Kind::Symlink);
        entry.target = target.as_bytes().to_vec();
        entry
    };
    let entries = [
        file("link", b"content"),
        file("fifo", b""),
        file("dir", b""),
        file("no", b""),
        link_to("outside"),
        link_to("x"),
    ];
    let found = reuse.look_for(&entries.iter().collect::<Vec<_>>(), &()).unwrap();
    assert!(
        matches!(
            found[..],
            [Found::Other(_), Found::Other(_), Found::Directory, Found::Nothing, Found::Object, Found::Other(_)]
        ),
        "{found:?}"
    );
}

#[test]
fn a_task_stands_in_the_journal_as_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let folder = open(dir.path());
    let asked = Task::new(ID, &["a b".to_owned(), "it's".to_owned()], &["*.log".to_owned()], true);
    Journal::begin("1", Phase::Staging, asked.clone()).write(folder.as_fd()).unwrap();
    assert_eq!(Journal::read(folder.as_fd()).unwrap().unwrap().task, asked);
}
