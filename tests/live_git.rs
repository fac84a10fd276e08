//! Git repositories that are written to while they are captured: whatever a captured ref names is in the snapshot.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/cycle.rs"]
mod cycle;

use std::path::{Path, PathBuf};
use std::process::Command;

use cycle::{Site, Worker, id, run};
use serde_json::Value;

/// Snapshots for each way of writing.
const SNAPSHOTS: usize = 8;

/// Every git of these tests: no settings of the machine, no time of its own, no maintenance by itself.
const GIT: &str = r#"
set -eu
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.com GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.com
git() { command git -c gc.auto=0 -c maintenance.auto=false -c init.defaultBranch=main -c protocol.file.allow=always -c safe.directory='*' "$@"; }
"#;

/// Commits for ever in the work tree $1, sometimes on another branch, and prints the number of each commit.
const COMMIT: &str = r#"
cd "$1"
n=0
while :; do
  n=$((n + 1))
  mkdir -p "d$((n % 7))"
  echo "content $n" >"d$((n % 7))/file$((n % 90))"
  # A repack removes empty folders under a writer's hands now and then: that turn is lost.
  git add -A && git commit -q -m "commit $n" || continue
  [ $((n % 10)) -ne 0 ] || git branch -f "side$((n % 3))" || :
  [ $((n % 15)) -ne 0 ] || git pack-refs --all || :
  echo "$n"
done
"#;

/// Repacks the repository $1 for ever in the ways that replace packs and remove loose objects.
const REPACK: &str = r#"
cd "$1"
n=0
while :; do
  n=$((n + 1))
  # A writer that commits meanwhile makes some of these fail; the next turn tries again.
  case $((n % 3)) in
    0) git gc -q || : ;;
    1) git repack -adq --no-write-bitmap-index || : ;;
    2) git repack -dq --write-midx || : ;;
  esac
  echo "$n"
done
"#;

/// Amends and deletes: what was a loose object or a ref a moment ago is gone.
const REWRITE: &str = r#"
cd "$1"
n=0
while :; do
  n=$((n + 1))
  echo "$n" >"r$((n % 20))"
  git add -A || continue
  if [ $((n % 4)) -eq 0 ]; then git commit -q --amend -m "amended $n"; else git commit -q -m "commit $n"; fi || continue
  git tag -f "tag$((n % 5))" >/dev/null || :
  [ $((n % 6)) -ne 0 ] || git tag -d "tag$((n % 5))" >/dev/null || :
  [ $((n % 9)) -ne 0 ] || git reset -q --hard HEAD~1 || :
  echo "$n"
done
"#;

fn git(script: &str, arguments: &[&Path]) -> String {
    run(Command::new("sh").args(["-c", &format!("{GIT}\n{script}"), "sh"]).args(arguments))
}

fn worker(script: &str, repository: &Path) -> Worker {
    // What git says of steps that another process got in the way of is noise here.
    Worker::start(Command::new("sh").args(["-c", &format!("{GIT}\nexec 2>/dev/null\n{script}"), "sh"]).arg(repository))
}

/// A repository with some history, part of it packed.
fn repository(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    git(
        r#"
cd "$1"
git init -q .
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "$n" >"old$n"; git add -A; git commit -q -m "old $n"; [ "$n" -ne 6 ] || git gc -q; done
"#,
        &[path],
    );
}

/// What must hold of a restored repository; returns the subjects of HEAD's history.
#[track_caller]
fn verify(repository: &Path) -> Vec<String> {
    // git notices a broken commit-graph by itself, so fsck looks at it as well.
    let log = git(
        r#"
cd "$1"
git fsck --connectivity-only --no-dangling --no-progress
git log --format=%s
git rev-list --all --objects >/dev/null
"#,
        &[repository],
    );
    log.lines().map(str::to_owned).collect()
}

/// Takes snapshots while the workers work, then restores and verifies each.
fn snapshots_during(data: &Path, site: &Site, repositories: &[PathBuf], workers: &mut [Worker]) -> Vec<(u64, Value)> {
    let mut taken = Vec::new();
    for _ in 0..SNAPSHOTS {
        for worker in workers.iter_mut() {
            worker.wait_past(worker.last());
        }
        let committed = workers[0].last();
        // A file of the work tree may be changing each time it is read: exit 3. In the repository nothing may be missing.
        let output = site.snapshot_command(data).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
        let snapshot: Value = serde_json::from_slice(&output.stdout).unwrap();
        let in_git = |warning: &&Value| {
            let text = warning.as_str().unwrap();
            !text.starts_with("note:") && (text.contains("/objects/") || text.contains("/refs/"))
        };
        assert_eq!(snapshot["warnings"].as_array().unwrap().iter().find(in_git), None, "{said}");
        taken.push((committed, snapshot));
    }
    for (at, (_, snapshot)) in taken.iter().enumerate() {
        let to = site.dir.join(format!("restored-{at}"));
        let output = site.restore_command(id(snapshot), &to).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
        for repository in repositories {
            let history = verify(&to.join(repository));
            assert!(!history.is_empty(), "snapshot {at}: {} has no history", repository.display());
        }
    }
    taken
}

#[test]
fn commits_during_snapshots() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    repository(&data.join("project"));
    let mut workers = [worker(COMMIT, &data.join("project"))];
    let taken = snapshots_during(&data, &site, &["project".into()], &mut workers);
    let last = workers[0].last();
    drop(workers);
    assert!(last > taken[0].0 + 8, "the writer went on during the snapshots");
    for (at, (committed, _)) in taken.iter().enumerate() {
        let history = verify(&site.dir.join(format!("restored-{at}/project")));
        assert!(history.contains(&format!("commit {committed}")), "commit {committed} came before snapshot {at}");
    }
}

#[test]
fn commits_and_repacks_during_snapshots() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    let project = data.join("project");
    repository(&project);
    let mut workers = [worker(COMMIT, &project), worker(REPACK, &project)];
    let taken = snapshots_during(&data, &site, &["project".into()], &mut workers);
    for (at, (committed, _)) in taken.iter().enumerate() {
        let history = verify(&site.dir.join(format!("restored-{at}/project")));
        assert!(history.contains(&format!("commit {committed}")), "commit {committed} came before snapshot {at}");
    }
}

#[test]
fn rewritten_history_during_snapshots() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    repository(&data.join("project"));
    let mut workers = [worker(REWRITE, &data.join("project"))];
    snapshots_during(&data, &site, &["project".into()], &mut workers);
}

#[test]
fn a_bare_repository_during_pushes() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    let work = site.dir.mkdir("work");
    repository(&work);
    let bare = data.join("bare.git");
    git(r#"git clone -q --bare "$1" "$2"; git -C "$1" remote add origin "$2""#, &[&work, &bare]);
    let push = COMMIT.replace("  echo \"$n\"\n", "  git push -qf origin --all || continue\n  echo \"$n\"\n");
    assert_ne!(push, COMMIT);
    let mut workers = [worker(&push, &work), worker(REPACK, &bare)];
    snapshots_during(&data, &site, &["bare.git".into()], &mut workers);
}

#[test]
fn submodules_and_linked_worktrees_during_commits() {
    let site = Site::new();
    let data = site.dir.mkdir("data");
    let (library, project) = (site.dir.join("library"), data.join("project"));
    repository(&library);
    repository(&project);
    git(
        r#"
cd "$2"
git submodule --quiet add "$1" sub
git commit -q -m 'a submodule'
git worktree add -q ../linked -b linked
"#,
        &[&library, &project],
    );
    let mut workers = [
        worker(COMMIT, &data.join("linked")),
        worker(REWRITE, &project.join("sub")),
        worker(REPACK, &project.join(".git/modules/sub")),
    ];
    // The linked work tree finds its repository by an absolute path, so it is looked at from the main one.
    let repositories = ["project".into(), "project/.git/modules/sub".into()];
    let taken = snapshots_during(&data, &site, &repositories, &mut workers);
    for (at, (committed, _)) in taken.iter().enumerate() {
        let log = git(r#"git -C "$1" log --format=%s linked"#, &[&site.dir.join(format!("restored-{at}/project"))]);
        assert!(log.lines().any(|line| line == format!("commit {committed}")), "commit {committed}, snapshot {at}");
    }
}
