//! Databases that another process writes to while they are captured: what was committed before a snapshot began is in it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cycle::{Site, Worker, id, json, python, run};
use serde_json::Value;
use support::{TestDir, wait_for};

/// Commits rows with the ids 1, 2, 3 … into two tables in one transaction each, and prints each id once it is committed.
/// With `asked` it waits for a line on stdin before each transaction.
const WRITER: &str = r#"
import sqlite3, sys
path, mode, pace = sys.argv[1:4]
db = sqlite3.connect(path, isolation_level=None, timeout=60)
assert db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
db.execute("PRAGMA synchronous=OFF")
db.execute("PRAGMA wal_autocheckpoint=" + ("0" if pace == "asked" else "50"))
db.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, text TEXT)")
db.execute("CREATE TABLE two (id INTEGER PRIMARY KEY, text TEXT)")
if pace == "asked":
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
id = 0
while True:
    id += 1
    db.execute("BEGIN IMMEDIATE")
    # Rows of many sizes, so that pages overflow and the tables do not grow alike.
    db.execute("INSERT INTO one VALUES (?, ?)", (id, "x" * (id * 37 % 3000)))
    db.execute("INSERT INTO two VALUES (?, ?)", (id, "y" * (id * 11 % 90)))
    db.execute("COMMIT")
    print(id, flush=True)
    if pace == "asked" and not sys.stdin.readline():
        break
"#;

/// Prints `count max` of the rows, after everything that must hold was found to hold.
const VERIFY: &str = r#"
import sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
one = db.execute("SELECT count(*), max(id) FROM one").fetchone()
two = db.execute("SELECT count(*), max(id) FROM two").fetchone()
assert one == two, f"half a transaction: {one} {two}"
wrong = db.execute("SELECT count(*) FROM one WHERE length(text) != id * 37 % 3000").fetchone()[0]
assert wrong == 0, wrong
print(one[0], one[1])
"#;

/// The number of rows of a restored database, which stands alone.
#[track_caller]
fn rows(database: &Path) -> u64 {
    for suffix in ["-wal", "-shm", "-journal"] {
        let mut side = database.as_os_str().to_owned();
        side.push(suffix);
        assert!(!Path::new(&side).exists(), "{} was restored", side.display());
    }
    let counted = python(VERIFY, &[database]);
    let (count, max) = counted.trim().split_once(' ').unwrap();
    assert_eq!(count, max, "ids are consecutive");
    count.parse().unwrap()
}

fn writer(database: &Path, mode: &str, pace: &str) -> Worker {
    Worker::start(Command::new("python3").args(["-c", WRITER]).arg(database).args([mode, pace]))
}

/// The suffixes of a manifest line's `left_out`.
fn left_out(line: &Value) -> Vec<&str> {
    line["database"]["left_out"].as_array().map_or_else(Vec::new, |all| all.iter().filter_map(Value::as_str).collect())
}

fn snapshots_during_commits(mode: &str, recorded: &str) {
    const SNAPSHOTS: usize = 6;
    let site = Site::new();
    // Recognised by its header: nothing about this name says database.
    let database = site.dir.write("data/docs/notes.txt", "");
    site.dir.write("data/docs/real.db", "not a database in spite of its name\n");
    std::fs::remove_file(&database).unwrap();
    let mut writer = writer(&database, mode, "unasked");
    let mut taken = Vec::new();
    for _ in 0..SNAPSHOTS {
        // Each snapshot has something new to miss.
        let committed = writer.wait_past(writer.last() + 20);
        let snapshot = site.snapshot(&site.dir.join("data"));
        taken.push((committed, snapshot, writer.last()));
    }
    let last = writer.last();
    drop(writer);
    assert!(last > taken.first().unwrap().2, "the writer wrote on during the snapshots");
    for (committed, snapshot, at_its_end) in &taken {
        let restored = site.restore(snapshot);
        let found = rows(&restored.join("docs/notes.txt"));
        // One more than printed may have been committed at the end.
        assert!((*committed..=at_its_end + 1).contains(&found), "{committed} ≤ {found} ≤ {at_its_end}");
        let line = site.line(id(snapshot), "docs/notes.txt");
        assert_eq!(line["database"]["kind"], "sqlite", "{line}");
        assert_eq!(line["database"]["journal_mode"], recorded, "{line}");
        if mode == "wal" {
            assert!(left_out(&line).contains(&"-wal") && left_out(&line).contains(&"-shm"), "{line}");
        }
        let lines = site.manifest(id(snapshot));
        let side_file = |line: &&Value| line["path"].as_str().is_some_and(|path| path.starts_with("docs/notes.txt-"));
        assert_eq!(lines.iter().find(side_file), None, "side files have no entry of their own");
        assert!(site.line(id(snapshot), "docs/real.db").get("database").is_none());
    }
}

#[test]
fn rows_committed_before_a_snapshot_are_in_it_wal() {
    snapshots_during_commits("wal", "wal");
}

#[test]
fn rows_committed_before_a_snapshot_are_in_it_rollback() {
    snapshots_during_commits("delete", "rollback");
}

/// Waits until these files are at rest for longer than the two seconds that unchanged-detection wants.
fn wait_at_rest(files: &[&Path]) {
    let ctime = |file: &&Path| file.metadata().map_or(0, |metadata| metadata.ctime());
    let newest = files.iter().map(ctime).max().unwrap();
    wait_for("the files to be at rest", Duration::from_secs(20), || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        (i64::try_from(now).unwrap() > newest + 3).then_some(())
    });
}

#[test]
fn a_commit_that_touches_only_the_wal_is_in_the_next_snapshot() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    let (database, wal) = (data.join("app.db"), data.join("app.db-wal"));
    let mut writer = writer(&database, "wal", "asked");
    wait_at_rest(&[&database, &wal]);

    let first = site.snapshot(&data);
    assert_eq!(rows(&site.restore(&first).join("app.db")), 1);
    let again = site.snapshot(&data);
    assert_eq!(again["bytes_read"], 0, "nothing was written, so nothing is read: {again}");
    assert_eq!(rows(&site.restore(&again).join("app.db")), 1);

    let stat = |path: &Path| {
        let m = path.metadata().unwrap();
        (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
    };
    let before = stat(&database);
    assert_eq!(writer.step(), 2);
    assert_eq!(stat(&database), before, "only the WAL was written, which is what this test is about");
    let third = site.snapshot(&data);
    assert_eq!(rows(&site.restore(&third).join("app.db")), 2);
}

#[test]
fn a_hot_journal_is_neither_restored_nor_ignored() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    // A transaction that spilled pages into the main file and never ended: what is in that file is not committed.
    python(
        r#"
import os, shutil, sqlite3, sys
data = sys.argv[1]
db = sqlite3.connect(data + "/work", isolation_level=None)
db.executescript("PRAGMA journal_mode=delete; PRAGMA cache_size=4; CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT);")
db.executescript("BEGIN; " + "".join(f"INSERT INTO t VALUES ({n}, '{'a' * 500}');" for n in range(200)) + "COMMIT;")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE t SET x = replace(x, 'a', 'b')")
shutil.copy(data + "/work", data + "/app.db")
shutil.copy(data + "/work-journal", data + "/app.db-journal")
db.execute("ROLLBACK")
db.close()
os.unlink(data + "/work")
assert b"bbbb" in open(data + "/app.db", "rb").read(), "nothing spilled"
"#,
        &[&data],
    );
    let snapshot = site.snapshot(&data);
    assert_eq!(left_out(&site.line(id(&snapshot), "app.db")), ["-journal"]);
    let restored = site.restore(&snapshot);
    assert!(!restored.join("app.db-journal").exists());
    let counted = python(
        r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(db.execute("SELECT count(*), min(x) = max(x), substr(min(x), 1, 2) FROM t").fetchone())
"#,
        &[&restored.join("app.db")],
    );
    assert_eq!(counted.trim(), "(200, 1, 'aa')", "the unfinished transaction is rolled back");
}

#[test]
fn a_damaged_database_is_named_and_never_stored_as_raw_bytes() {
    let site = Site::new();
    let mut content = b"SQLite format 3\0".to_vec();
    let mut state = 1_u32;
    content.extend(
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(20_000),
    );
    let raw = site.dir.write("data/app/broken.db", &content);
    site.dir.write("data/app/good.txt", "good\n");
    let sha256 = run(Command::new("sha256sum").arg(&raw))[..64].to_owned();

    let snapshot = json(&mut site.snapshot_command(&site.dir.join("data")), 3);
    assert_eq!(snapshot["status"], "incomplete");
    let warnings = snapshot["warnings"].to_string();
    assert!(warnings.contains("app/broken.db"), "{warnings}");
    assert_eq!(site.receipt(id(&snapshot))["status"], "incomplete");
    let line = site.line(id(&snapshot), "app/broken.db");
    assert!(line["missing"].as_str().is_some_and(|reason| reason.contains("database")), "{line}");
    for chunks in site.open_packs().values() {
        assert!(!chunks.join(&sha256).exists(), "its bytes were stored");
    }

    let to = site.dir.join("restored");
    let restored = json(&mut site.restore_command(id(&snapshot), &to), 3);
    assert!(restored["warnings"].to_string().contains("app/broken.db"), "{restored}");
    assert!(!to.join("app/broken.db").exists());
    assert_eq!(std::fs::read_to_string(to.join("app/good.txt")).unwrap(), "good\n");
}

#[test]
fn a_wal_database_in_a_read_only_file_system_without_shm_is_captured() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    let work = TestDir::new();
    let mut writer = writer(&work.join("app.db"), "wal", "asked");
    for _ in 0..4 {
        writer.step();
    }
    for suffix in ["", "-wal"] {
        std::fs::copy(work.join(format!("app.db{suffix}")), data.join(format!("app.db{suffix}"))).unwrap();
    }
    drop(writer);
    assert!(data.join("app.db-wal").metadata().unwrap().len() > 0, "the rows are in the WAL");
    let mount = site.dir.mkdir("mounted");

    // In a mount namespace of its own, where this user may mount: as root, else as root of a user namespace.
    let rights = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let script = r#"mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" || exit 99
        if touch "$2/written" 2>/dev/null; then exit 98; fi
        exec "$3" snapshot --json "$2""#;
    let mut command = assert_cmd::Command::new("unshare");
    command.env_clear().envs(support::clean_env());
    command.env("OPSCTL_STORE", &site.url).env("OPSCTL_SOURCE", cycle::SOURCE);
    command.env("OPSCTL_SIGNING_KEY_FILE", site.signing_key()).env("OPSCTL_STATE_DIR", site.dir.join("state"));
    command.args([rights, "sh", "-c", script, "sh"]).arg(&data).arg(&mount).arg(env!("CARGO_BIN_EXE_opsctl"));
    let output = command.output().expect("start unshare (Debian: util-linux)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(99), "this test must be allowed to mount (CAP_SYS_ADMIN): {said}");
    assert!(output.status.success(), "{:?} {said} {}", output.status, String::from_utf8_lossy(&output.stdout));
    let snapshot: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(rows(&site.restore(&snapshot).join("app.db")), 5);
    let line = site.line(id(&snapshot), "app.db");
    assert_eq!((line["database"]["journal_mode"].as_str(), left_out(&line)), (Some("wal"), vec!["-wal"]), "{line}");
    let names: Vec<_> = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing was made beside the database: {names:?}");
}
