//! A power cut on a disk that keeps nothing but what was synced: the calls of one run are played on a model of such a
//! disk, and wherever a cut may leave another tree, the next command leads to exactly the old tree or to exactly the new.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/calls.rs"]
mod calls;
#[path = "support/left.rs"]
mod left;
#[path = "support/replay.rs"]
mod replay;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/strike.rs"]
mod strike;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use calls::record;
use left::Left;
use replay::Volume;
use scene::{Place, Scene};
use strike::each;
use support::opsctl::noise;
use support::tree::{Tree, assert_equal};
use support::wait_for;

const YES: [&str; 1] = ["--yes"];

/// One cut during a run, and what it may leave.
struct Cut {
    after: String,
    left: Left,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.after)
    }
}

/// The cuts during a run that leave different trees: all gone that is not synced, or a part of it.
struct Cuts {
    lost: Vec<Cut>,
    /// At its end, when it had said that it was done.
    done: Left,
}

impl Left {
    fn place<'s>(&self, scene: &'s Scene) -> Place<'s> {
        let place = scene.empty_place();
        self.make(&place.tree);
        // A program that another thread has begun to start holds what was open here at that moment, until it runs.
        wait_for("nobody to hold the tree", Duration::from_secs(60), || (!is_held(&place.tree)).then_some(()));
        place
    }
}

/// True if a process has something in the tree open.
fn is_held(tree: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let folders = processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
    folders.flatten().flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|open| open.starts_with(tree)))
}

impl Cuts {
    fn of(place: &Place<'_>, command: &Command, seed: u64) -> Self {
        let mut volume = Volume::read(&place.tree);
        let (done, calls) = record(command, &place.dir.join("calls"));
        done.ok();
        let mut coins = noise(100_000, seed).into_iter().cycle();
        let mut lost: Vec<Cut> = Vec::new();
        let mut count = 0;
        for call in &calls {
            if volume.play(call) {
                count += 1;
                for left in [volume.left(), volume.left_by_chance(|| coins.next().is_some_and(|coin| coin % 2 == 0))] {
                    if lost.iter().all(|known| known.left != left) {
                        lost.push(Cut { after: format!("call {count}, {}", call.name), left });
                    }
                }
            }
        }
        // The model is right: it has come to the tree that the run has made.
        let played = volume.all().place(place.scene);
        // Nothing sets the time of this folder, where something was removed by a restore file by file.
        let but_for_time = |tree: &Path| Tree::read(tree).without(|path| path == b"gone");
        assert_equal(&but_for_time(&place.tree), &but_for_time(&played.tree));
        println!(
            "{count} calls that change the tree or wait for the disk, {} trees after a cut, seed {seed}",
            lost.len()
        );
        Self { lost, done: volume.left() }
    }
}

#[test]
fn a_restore_of_which_only_the_synced_is_left_is_finished_or_taken_back() {
    let scene = Scene::new();
    let place = scene.place();
    let cuts = Cuts::of(&place, &place.restore_command(&YES), 1);
    assert!(cuts.lost.len() >= 50, "{}", cuts.lost.len());
    each(&cuts.lost, |at, cut| {
        let place = cut.left.place(&scene);
        if at % 2 == 0 { place.goes_on() } else { place.goes_back() }
    });
    let place = cuts.done.place(&scene);
    place.assert_is(&scene.new);
    assert_eq!(place.phase(), None);
    place.rollback(&YES).ok();
    place.assert_is(&scene.old);
}

#[test]
fn the_same_where_an_earlier_tree_was_kept() {
    let scene = Scene::new();
    let place = scene.place();
    place.restore(&["--yes", "--snapshot", &scene.other]).ok();
    let kept = Tree::read(&place.tree);
    let cuts = Cuts::of(&place, &place.restore_command(&YES), 2);
    each(&cuts.lost, |_, cut| {
        let place = cut.left.place(&scene);
        place.restore(&YES).ok();
        place.assert_is(&scene.new);
        place.assert_tidy();
        place.rollback(&YES).ok();
        place.assert_is(&kept);
    });
}

#[test]
fn a_rollback_of_which_only_the_synced_is_left_is_finished() {
    let scene = Scene::new();
    let place = scene.place();
    place.restore(&YES).ok();
    let cuts = Cuts::of(&place, &place.rollback_command(&YES), 3);
    assert!(cuts.lost.len() >= 20, "{}", cuts.lost.len());
    each(&cuts.lost, |_, cut| {
        let place = cut.left.place(&scene);
        if place.phase().is_some() || !place.keeps_restored() {
            place.rollback(&YES).ok();
        }
        place.assert_is(&scene.old);
        place.rollback(&YES).ok();
        place.assert_is(&scene.new);
        place.assert_tidy();
    });
    cuts.done.place(&scene).assert_is(&scene.old);
}

#[test]
fn a_restore_file_by_file_of_which_only_the_synced_is_left_goes_on() {
    let scene = Scene::new();
    let in_place = ["--yes", "--in-place"];
    let place = scene.place();
    let cuts = Cuts::of(&place, &place.restore_command(&in_place), 4);
    assert!(cuts.lost.len() >= 50, "{}", cuts.lost.len());
    each(&cuts.lost, |_, cut| {
        let place = cut.left.place(&scene);
        place.restore(&in_place).ok();
        place.assert_is_new_by_files();
        assert_eq!(place.ours(), Vec::<String>::new());
    });
    cuts.done.place(&scene).assert_is_new_by_files();
}

#[test]
fn a_kept_tree_that_is_deleted_is_gone_or_whole() {
    let scene = Scene::new();
    let place = scene.place();
    place.restore(&YES).ok();
    let discard = ["--yes", "--discard"];
    let cuts = Cuts::of(&place, &place.rollback_command(&discard), 5);
    each(&cuts.lost, |_, cut| {
        let place = cut.left.place(&scene);
        place.assert_is(&scene.new);
        if place.has_kept() {
            place.rollback(&YES).ok();
            place.assert_is(&scene.old);
        } else {
            place.rollback(&discard);
            place.assert_nothing_of_ours();
        }
    });
    cuts.done.place(&scene).rollback(&YES).ended(10);
}
