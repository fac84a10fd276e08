//! The store that every cell damages a copy of.
//!
//! Source `production` has the snapshots One, Two and Three, `staging` has Other, which is the newest of all. Two brings `mid/`, Three brings `zlate/`:
//! the pack with the content of `mid/`, and the one with the leaf of the manifest that names it, are needed by Two and Three,
//! but not by One. There are two keys objects; the second adds a recipient.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use opsctl::archive::hash::Hash;
use opsctl::archive::layout;
use opsctl::archive::packlist::{self, PackLine};
use opsctl::archive::receipt::Receipt;
use opsctl::archive::signature::SigningKey;
use secrecy::SecretString;

use crate::expect::{LATE, MID, Object, Snap};
use crate::support::opsctl::{Bench, noise, run};
use crate::support::tree::{Tree, assert_equal};
use crate::support::{TestDir, wait_for};

/// One of three of these makes a frame, and a 64 KiB block of it is of no other.
const CONTENT: usize = 270_000;

/// The prepared store, never written to once it is made.
pub struct Site {
    pub bench: Bench,
    /// Another store with another signer, whose objects are valid there.
    pub elsewhere: Bench,
    pub signer: SigningKey,
    /// Captured by the snapshot that follows the damage.
    pub live: Tree,
    pub staging: PathBuf,
    /// The store as it was made.
    store: Tree,
    snapshots: BTreeMap<Snap, Taken>,
}

/// A snapshot, as it was taken.
pub struct Taken {
    pub id: String,
    pub source: &'static str,
    pub tree: Tree,
    pub receipt: Receipt,
    pub packs: Vec<PackLine>,
}

impl Site {
    pub fn new() -> Self {
        let bench = Bench::new();
        let other = age::x25519::Identity::generate().to_public().to_string();
        let mut add = bench.command();
        add.args(["keys", "add-recipient", &other, "--json"]).env("OPSCTL_SIGNING_KEY_FILE", &bench.key);
        run(add).ok();

        let staging = bench.dir.mkdir("staging");
        bench.dir.write("staging/file", noise(5000, 50));
        // Long lines, so that the manifest has several leaves, and only one of them changes from snapshot to snapshot.
        for dir in ["a", "n"] {
            let dir = bench.dir.mkdir(format!("tree/{dir}"));
            (0..10).for_each(|n| symlink("to/".repeat(1000), dir.join(n.to_string())).unwrap());
        }
        bench.dir.write("tree/common/file", noise(20_000, 1));
        ["mid", "zlate"].iter().for_each(|dir| drop(bench.dir.mkdir(format!("tree/{dir}"))));
        let mut site = Self {
            signer: signing_key(&bench),
            elsewhere: Bench::new(),
            live: Tree::read(&bench.tree),
            store: Tree::read(&bench.store),
            staging,
            snapshots: BTreeMap::new(),
            bench,
        };
        site.take(Snap::One);
        for (seed, file) in (2..).zip(MID) {
            site.bench.dir.write(format!("tree/{file}"), noise(CONTENT, seed));
        }
        site.take(Snap::Two);
        site.bench.dir.write(format!("tree/{}", LATE[0]), noise(CONTENT, 9));
        site.take(Snap::Three);
        // Ids have whole seconds, and those of a source are a second apart at least, if need be ahead of the clock.
        let later = site.taken(Snap::Three).receipt.finished_at + jiff::SignedDuration::from_secs(1);
        wait_for("a later second", Duration::from_secs(60), || (jiff::Timestamp::now() >= later).then_some(()));
        site.take(Snap::Other);
        site.bench.dir.write("tree/zlate/next", noise(20_000, 10));
        site.live = Tree::read(&site.bench.tree);

        site.elsewhere.dir.write("tree/file", noise(5000, 60));
        run(of_source("production", site.elsewhere.snapshot_command([""; 0]))).ok();
        site.store = Tree::read(&site.bench.store);
        site.has_what_the_cells_need();
        site
    }

    fn take(&mut self, snap: Snap) {
        let bench = &self.bench;
        let (source, tree) = match snap {
            Snap::Other => ("staging", &self.staging),
            _ => ("production", &bench.tree),
        };
        let done = run(of_source(source, bench.snapshot_of(tree, [""; 0]))).ok();
        let id = done.id().to_owned();
        let bytes = fs::read(bench.store.join(format!("snapshots/{source}/{id}.json"))).unwrap();
        let receipt = Receipt::read(source, &id.parse().unwrap(), &bytes).unwrap();
        let lines = fs::read(bench.store.join(layout::pack_list(receipt.pack_list))).unwrap();
        let packs = packlist::read(receipt.pack_list, &lines).unwrap();
        self.snapshots.insert(snap, Taken { id, source, tree: Tree::read(tree), receipt, packs });
    }

    pub fn taken(&self, snap: Snap) -> &Taken {
        &self.snapshots[&snap]
    }

    /// The object of the store that stands for its kind.
    pub fn name(&self, object: Object) -> String {
        match object {
            Object::Data => layout::pack(self.new_packs(Snap::Two)[0].pack),
            Object::Leaves => layout::pack(self.new_packs(Snap::Two)[1].pack),
            Object::Root => layout::pack(self.taken(Snap::Three).receipt.root.pack),
            Object::List => layout::pack_list(self.taken(Snap::Three).receipt.pack_list),
            Object::Newest => self.receipt(Snap::Three),
            Object::Older => self.receipt(Snap::Two),
            Object::Signature => signature(&self.receipt(Snap::Three)),
            Object::Keys => self.keys(2),
            Object::KeysSignature => signature(&self.keys(2)),
            Object::Descriptor => layout::DESCRIPTOR.to_owned(),
        }
    }

    /// Another object of the same kind.
    pub fn sibling(&self, object: Object) -> String {
        match object {
            Object::Data => layout::pack(self.new_packs(Snap::Three)[0].pack),
            Object::Leaves => layout::pack(self.new_packs(Snap::Three)[1].pack),
            Object::Root => layout::pack(self.taken(Snap::Two).receipt.root.pack),
            Object::List => layout::pack_list(self.taken(Snap::Two).receipt.pack_list),
            Object::Newest => self.receipt(Snap::Two),
            Object::Older => self.receipt(Snap::One),
            Object::Signature => signature(&self.receipt(Snap::Two)),
            Object::Keys => self.keys(1),
            Object::KeysSignature => signature(&self.keys(1)),
            Object::Descriptor => panic!("there is one descriptor"),
        }
    }

    /// The receipt of a snapshot.
    pub fn receipt(&self, snap: Snap) -> String {
        let taken = self.taken(snap);
        format!("snapshots/{}/{}.json", taken.source, taken.id)
    }

    /// The keys object with this number.
    pub fn keys(&self, seq: u32) -> String {
        keys_of(&self.bench, seq)
    }

    /// The line of a pack, for its sizes.
    pub fn line(&self, pack: &str) -> PackLine {
        let mut all = self.snapshots.values().flat_map(|taken| &taken.packs);
        *all.find(|line| layout::pack(line.pack) == pack).unwrap()
    }

    /// The packs that a snapshot added: content, leaves, root.
    fn new_packs(&self, snap: Snap) -> [PackLine; 3] {
        let before: Vec<Hash> =
            self.snapshots.range(..snap).flat_map(|(_, taken)| &taken.packs).map(|line| line.pack).collect();
        let taken = self.taken(snap);
        let is_root = |line: &PackLine| line.pack == taken.receipt.root.pack;
        let mut new: Vec<PackLine> = taken.packs.iter().filter(|line| !before.contains(&line.pack)).copied().collect();
        new.sort_by_key(|line| (is_root(line), std::cmp::Reverse(line.size)));
        new.try_into().unwrap()
    }

    /// No cell has written into an object that another links to.
    pub fn is_as_it_was(&self) {
        assert_equal(&self.store, &Tree::read(&self.bench.store));
    }

    fn has_what_the_cells_need(&self) {
        let users = |object| {
            let name = self.name(object);
            let uses = |taken: &Taken| taken.packs.iter().any(|line| layout::pack(line.pack) == name);
            self.snapshots.iter().filter(|(_, taken)| uses(taken)).map(|(snap, _)| *snap).collect::<Vec<_>>()
        };
        assert_eq!(users(Object::Data), [Snap::Two, Snap::Three]);
        assert_eq!(users(Object::Leaves), [Snap::Two, Snap::Three]);
        assert_eq!(users(Object::Root), [Snap::Three]);
        assert!(self.taken(Snap::Other).id > self.taken(Snap::Three).id);
        for (snap, taken) in &self.snapshots {
            let to = self.bench.dir.join(format!("{snap:?}"));
            self.bench.restore(&to, ["--snapshot", &taken.id]).ok();
            assert_equal(&taken.tree, &Tree::read(&to));
        }
    }
}

/// The snapshot command for a source.
fn of_source(source: &str, mut command: Command) -> Command {
    command.env("OPSCTL_SOURCE", source);
    command
}

/// The key with which the host signs.
pub fn signing_key(bench: &Bench) -> SigningKey {
    SigningKey::parse(&SecretString::from(fs::read_to_string(&bench.key).unwrap())).unwrap()
}

/// The keys object of a store with this number.
pub fn keys_of(bench: &Bench, seq: u32) -> String {
    let names = bench.objects_in(&format!("keys/{seq:06}-"));
    names.into_iter().find(|name| name.ends_with(".json")).unwrap()
}

/// The signature that belongs to an object.
pub fn signature(object: &str) -> String {
    format!("{object}{}", layout::SIGNATURE)
}

/// A copy of the store and of the host's state, to be damaged.
pub struct Copy {
    pub dir: TestDir,
    pub store: PathBuf,
    pub state: PathBuf,
}

impl Copy {
    pub fn of(bench: &Bench) -> Self {
        let dir = TestDir::new();
        let (store, state) = (dir.join("store"), dir.join("state"));
        // Objects are linked: nothing here writes into one, [`Copy::put`] replaces it.
        for (from, to, how) in [(&bench.store, &store, "-al"), (&bench.state, &state, "-a")] {
            let status = Command::new("cp").args([how, "--"]).args([from, to]).status().unwrap();
            assert!(status.success());
        }
        Self { dir, store, state }
    }

    pub fn get(&self, name: &str) -> Vec<u8> {
        fs::read(self.store.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Stores an object, in place of the one of this name if there is one.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.store.join(name);
        if path.exists() {
            self.delete(name);
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn delete(&self, name: &str) {
        fs::remove_file(self.store.join(name)).unwrap();
    }
}
