//! Every kind of damage to every kind of object, by the real program: which level of `check` sees it, what is still
//! restored, what the next snapshot does. The expectations are in `expect.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(unreachable_pub, reason = "the modules of one test")]

mod cells;
mod expect;
mod observe;
mod render;
mod site;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect::{CELLS, Cell};
use site::Site;
use support::opsctl::{Bench, run};
use support::tree::assert_same_tree;

/// Cells under way at once: they wait for processes and the disk more than they compute.
const THREADS: usize = 8;

#[test]
fn damage_is_found_costs_what_it_hits_and_never_gives_wrong_content() {
    let site = Site::new();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(cell) = CELLS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = wrong_in(&site, cell);
                    if !wrong.is_empty() {
                        let mut failed = failed.lock().unwrap();
                        let _ = writeln!(failed, "{:?} {:?}:", cell.object, cell.damage);
                        for line in wrong {
                            let _ = writeln!(failed, "  {line}");
                        }
                    }
                }
            });
        }
    });
    site.is_as_it_was();
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed}");
}

/// Where nothing changed, the next snapshot has the pack list of the one before.
#[test]
fn no_snapshot_is_committed_on_a_pack_list_of_another_size() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "content");
    bench.take();
    let [list] = &bench.objects_in("packlists/")[..] else { panic!("{:?}", bench.objects()) };
    let file = bench.store.join(list);
    let intact = std::fs::read(&file).unwrap();
    std::fs::write(&file, &intact[1..]).unwrap();
    let error = bench.snapshot([""; 0]).ended(4).error();
    assert!(error.contains(&format!("delete {list}")), "{error}");
    assert_eq!(bench.receipts().len(), 1, "nothing is committed");
    std::fs::remove_file(&file).unwrap();
    let done = bench.take();
    assert_eq!(std::fs::read(&file).unwrap(), intact, "the same list");
    assert_same_tree(&bench.tree, &bench.restored(&done));
}

/// As the page says: LIST does not show it.
#[test]
fn a_pack_list_with_a_flipped_bit_is_used_until_it_is_deleted_and_stored_again() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "content");
    bench.take();
    let [list] = &bench.objects_in("packlists/")[..] else { panic!("{:?}", bench.objects()) };
    let file = bench.store.join(list);
    let intact = std::fs::read(&file).unwrap();
    std::fs::write(&file, [&[intact[0] ^ 1], &intact[1..]].concat()).unwrap();
    let hurt = bench.take();
    bench.restore(&bench.dir.join("hurt"), ["--snapshot", hurt.id()]).ended(4);
    std::fs::remove_file(&file).unwrap();
    bench.take();
    assert_eq!(std::fs::read(&file).unwrap(), intact, "the same list");
    assert_same_tree(&bench.tree, &bench.restored(&hurt));
}

/// As the refusal says: make the change again, and the host goes on.
#[test]
fn a_host_whose_newest_keys_object_is_gone_goes_on_when_it_is_made_again() {
    let bench = Bench::new();
    bench.dir.write("tree/file", "content");
    let other = age::x25519::Identity::generate().to_public().to_string();
    let add = || {
        let mut add = bench.command();
        add.args(["keys", "add-recipient", &other, "--json"]).env("OPSCTL_SIGNING_KEY_FILE", &bench.key);
        run(add).ok();
    };
    add();
    bench.take();
    for object in bench.objects_in("keys/000002-") {
        std::fs::remove_file(bench.store.join(object)).unwrap();
    }
    let refused = bench.snapshot([""; 0]).ended(4).error();
    assert!(refused.contains("number 2") && refused.contains("`opsctl keys`"), "{refused}");
    bench.snapshot(["--dry-run"]).ended(4);
    add();
    assert_same_tree(&bench.tree, &bench.restored(&bench.take()));
}

#[test]
fn the_documented_matrix_is_that_of_the_test() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/damage-matrix.md");
    let page = render::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let documented = std::fs::read_to_string(&file).unwrap_or_default();
    let how = "UPDATE_DOCS=1 cargo test --locked --test damage_matrix";
    assert!(documented == page, "docs/damage-matrix.md is out of date: {how}");
}

#[test]
fn no_cell_is_there_twice() {
    for (at, cell) in CELLS.iter().enumerate() {
        let is_same = |other: &&Cell| (other.object, other.damage) == (cell.object, cell.damage);
        assert_eq!(CELLS[at..].iter().filter(is_same).count(), 1, "{:?} {:?}", cell.object, cell.damage);
    }
}

fn wrong_in(site: &Site, cell: &Cell) -> Vec<String> {
    catch_unwind(AssertUnwindSafe(|| observe::wrong(site, cell))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
        vec![format!("the test itself fails: {text}")]
    })
}
