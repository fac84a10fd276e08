//! `docs/damage-matrix.md`, from the expectations.

use std::fmt::Write as _;

use crate::expect::{CELLS, Cell, Damage, Gets, Level, Next, Object, Seen, Snap};

const INTRODUCTION: &str = "\
# What damage costs

What `check`, `restore` and the next `snapshot` do after each kind of damage to each kind of object. This page is made
from the expectations of the test `damage_matrix`, which does all of it with the real program:
`UPDATE_DOCS=1 cargo test --locked --test damage_matrix` writes it.

The store: source `production` has the snapshots One, Two and Three, source `staging` has one that is newer than these. A
file of One is in all three; Two added `mid/`, three files in one pack, and Three one more file. There are two keys
objects, and the reader has the identity, which pins the signer. What holds in every case:

* No file is ever put in place that is not exactly what was captured: it is equal, or it is absent and named.
* Every snapshot that a row does not name restores completely, with exit 0.
* `latest` and `--at` take the newest snapshot that is believed, and name each newer one that they pass over, with the
  reason. They never pass over one because its packs are damaged: that ends with 4.
* `check` ends with 4 from the level on that is named, names exactly the damaged objects (for a signature the object that
  it belongs to), the snapshots that need them and, with the identity, the files; below that level it ends with 0.
* `list` shows what it reads: receipts, keys objects and the descriptor.
";

const LEGEND: &str = "
The level of `check` that sees it first; *warning*: said at every level, exit 0; *not seen*: see the notes; –: makes no
sense, for the reason below the table.
";

/// The whole page.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## First seen\n");
    page.push_str(LEGEND);
    overview(&mut page);
    reasons(&mut page);
    let mut notes = Notes::default();
    for object in Object::ALL {
        details(&mut page, object, &mut notes);
    }
    page.push_str("\n## Notes\n\n");
    for (number, note) in (1..).zip(notes.0) {
        let _ = writeln!(page, "{number}. {note}");
    }
    page
}

fn overview(page: &mut String) {
    let names: Vec<&str> = Object::ALL.iter().map(|object| object.short()).collect();
    let _ = writeln!(page, "\n| what is done | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for damage in Damage::ALL {
        let seen = Object::ALL.map(|object| match find(object, damage).map(|cell| cell.seen) {
            Some(Seen::At(level)) => level.name(),
            Some(Seen::Warned) => "*warning*",
            Some(Seen::Never) => "*not seen*",
            None => "–",
        });
        let _ = writeln!(page, "| {} | {} |", damage.text(None), seen.join(" | "));
    }
}

/// Why cells are missing, each reason once.
fn reasons(page: &mut String) {
    page.push('\n');
    let mut said: Vec<&str> = Vec::new();
    for damage in Damage::ALL {
        for object in Object::ALL.into_iter().filter(|object| find(*object, damage).is_none()) {
            let reason = reason(object, damage);
            if !said.contains(&reason) {
                said.push(reason);
                let _ = writeln!(page, "* {reason}");
            }
        }
    }
}

fn details(page: &mut String, object: Object, notes: &mut Notes) {
    let _ = writeln!(page, "\n## {}\n", object.title());
    page.push_str("| what is done | `check` | `restore` | next `snapshot` |\n|---|---|---|---|\n");
    for cell in CELLS.iter().filter(|cell| cell.object == object) {
        let numbers = notes_of(cell).into_iter().map(|note| format!(" [{}]", notes.number(note))).collect::<String>();
        let (check, restore, next) = (check(cell), restore(cell), next(cell.next));
        let _ = writeln!(page, "| {}{numbers} | {check} | {restore} | {next} |", cell.damage.text(Some(object)));
    }
}

fn check(cell: &Cell) -> String {
    match cell.seen {
        Seen::Warned => "warning".to_owned(),
        Seen::Never => "not seen".to_owned(),
        Seen::At(level) => {
            let names: Vec<&str> = cell.names.iter().map(|snap| snap.name()).collect();
            let files = match cell.files() {
                [] => String::new(),
                files => format!("; {} files", files.len()),
            };
            let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
            format!("{}{names}{files}", level.name())
        }
    }
}

fn restore(cell: &Cell) -> String {
    let texts = cell.restores.iter().map(|(snap, gets)| {
        let what = match gets {
            Gets::All => "everything".to_owned(),
            Gets::Loses(lost, of) if *lost == of.len() => format!("all but {}, exit 4", plural(*lost, "file")),
            Gets::Loses(lost, of) => format!("all but {lost} of {}, exit 4", plural(of.len(), "file")),
            Gets::Gap => "all but the paths of that leaf, exit 4".to_owned(),
            Gets::Nothing => "nothing, exit 4".to_owned(),
            Gets::Refused => "not believed, exit 4".to_owned(),
            Gets::Gone => "no such snapshot, exit 10".to_owned(),
        };
        (snap.name(), what)
    });
    // Snapshots to which the same happens, together.
    let mut groups: Vec<(Vec<&str>, String)> = Vec::new();
    for (snap, what) in texts {
        match groups.iter_mut().find(|(_, known)| *known == what) {
            Some((snaps, _)) => snaps.push(snap),
            None => groups.push((vec![snap], what)),
        }
    }
    let groups: Vec<String> = groups.into_iter().map(|(snaps, what)| format!("{}: {what}", snaps.join(", "))).collect();
    if groups.is_empty() { "everything".to_owned() } else { groups.join("; ") }
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("{count} {what}") } else { format!("{count} {what}s") }
}

fn next(next: Next) -> String {
    match next {
        Next::Whole => "commits; restores".to_owned(),
        Next::Said => "commits; restores; names the object".to_owned(),
        Next::Hurt => "commits; needs it as Three does".to_owned(),
        Next::Refuses(code) => format!("refuses, exit {code}"),
    }
}

/// Notes in the order in which they are first needed.
#[derive(Default)]
struct Notes(Vec<&'static str>);

impl Notes {
    fn number(&mut self, note: &'static str) -> usize {
        let at = self.0.iter().position(|known| *known == note).unwrap_or_else(|| {
            self.0.push(note);
            self.0.len() - 1
        });
        at + 1
    }
}

fn find(object: Object, damage: Damage) -> Option<&'static Cell> {
    CELLS.iter().find(|cell| (cell.object, cell.damage) == (object, damage))
}

const UNSEEN_SIZE: &str = "LIST, all that a backup host may do, shows names and sizes. Damage that leaves the size as it is stays unseen until \
    something is read, and later snapshots go on to use the pack. Run `check --level hash` on a schedule; delete a pack that it \
    names, and the next snapshot stores anew what it still needs of it.";
const STORED_ANEW: &str = "Gone, or of another size: the next snapshot stores its content anew, as a new pack. The snapshots that need the old one \
    stay damaged.";
const SAME_LIST: &str = "While nothing changes in the tree, the next snapshot needs the same pack list. If it is of another size, the run ends with 4 and \
    names it: delete it, and the next snapshot stores it again. If only bits differ, LIST does not show it, and the snapshot is as \
    damaged as Three until it is deleted and stored again.";
const APPENDED: &str = "A reader asks for no more bytes than the pack list says, and these are intact.";
const ROOT: &str = "Every snapshot that changes anything has a root of its own.";
const SALVAGED: &str =
    "age encrypts in blocks of 64 KiB: what lies in other blocks than the damaged is still restored.";
const LEAF: &str = "The lost range is named, by its first path and the first after it. A folder whose own entry is lost, but not all of its \
    content, is made with mode 0700.";
const IGNORED: &str = "A name that is not of the format is nobody's: ignored.";
const NEWEST: &str = "The signature is left, and that is said. It is a warning only, because a commit that was interrupted leaves the same until \
    the next snapshot.";
const HEAD: &str = "What is left is a valid, older store. It shows only to somebody who remembers the newest snapshot: the host that took it, and \
    whoever watches age and number of the newest from elsewhere.";
const GAP: &str = "A gap in the chain, which names the snapshot that is gone. A warning, because nothing that is there is hurt, and because \
    snapshots are also removed on purpose.";
const FUTURE: &str = "Written by a newer opsctl: no damage, but nothing that this one could read. Asked for by its id it is refused with exit 4.";
const FORK: &str = "A fork: two hosts wrote one source. Both snapshots are signed, and both restore.";
const NEWLINE: &str = "What follows the last line of a signature is not signed and not read: nothing is hurt.";
const LIE: &str = "Only who holds a signing key can do this. `list` believes it and `latest` means it; it cannot be restored, older ones can.";
const KEYS_LEFT: &str = "The signature is left, and that is said.";
const KEYS_BACK: &str = "Without its newest keys object a store looks as it did before that. Readers go by their pins, but would again believe a signer \
    that was revoked there. A host remembers the number that its last snapshot went by, and refuses to encrypt to older recipients.";
const KEYS_NEWER: &str = "Damage, not a warning as for receipts: whom to believe may have changed there. A host stops if one that it believes signed it.";
const NO_KEYS: &str = "No keys object counts then. Readers go by their pins, hosts refuse.";
const DESCRIPTOR: &str = "Nobody signs the descriptor, and nothing hangs on it: the keys object says the same and counts. It holds the store id \
    and a date, and can be written by hand.";
const NEWER_STORE: &str =
    "Written by a newer opsctl, and with it the store: readers go on as far as they can, a host stops.";
const TWO_KEYS: &str = "Of two objects with one number the one that the store received first counts.";

/// What is to be said of a cell.
fn notes_of(cell: &Cell) -> Vec<&'static str> {
    let mut notes = Vec::new();
    let mut add = |holds: bool, note| notes.extend(holds.then_some(note));
    let (object, damage) = (cell.object, cell.damage);
    let is_size = object.is_pack() && matches!(cell.seen, Seen::At(Level::Names));
    add(cell.next == Next::Hurt, UNSEEN_SIZE);
    add(is_size && object != Object::Root, STORED_ANEW);
    add(object == Object::Root, ROOT);
    add(object == Object::List && !matches!(damage, Damage::Delete | Damage::Stray), SAME_LIST);
    add(object.is_pack() && damage == Damage::Append, APPENDED);
    add(cell.restores.iter().any(|(_, gets)| matches!(gets, Gets::Loses(1 | 2, _))), SALVAGED);
    add(cell.restores.iter().any(|(_, gets)| *gets == Gets::Gap), LEAF);
    add(damage == Damage::Stray && cell.seen == Seen::Never, IGNORED);
    add(object == Object::Newest && damage == Damage::Delete, NEWEST);
    add(object == Object::Newest && damage == Damage::DeleteWhole, HEAD);
    add(object == Object::Older && cell.seen == Seen::Warned, GAP);
    let is_future = matches!(damage, Damage::Format | Damage::Requires);
    add(object == Object::Newest && is_future, FUTURE);
    add(object == Object::Newest && damage == Damage::SameNumber, FORK);
    add(damage == Damage::Lied, LIE);
    add(object == Object::Keys && damage == Damage::Delete, KEYS_LEFT);
    let is_signature = matches!(object, Object::Signature | Object::KeysSignature);
    add(is_signature && cell.seen == Seen::Never, NEWLINE);
    add(object.is_keys() && cell.next == Next::Refuses(4) && !is_future, KEYS_BACK);
    add(object == Object::Keys && is_future, KEYS_NEWER);
    add(object == Object::Keys && damage == Damage::SameNumber, TWO_KEYS);
    add(object.is_keys() && damage == Damage::Swap, NO_KEYS);
    add(object == Object::Descriptor && damage != Damage::Stray && !is_future, DESCRIPTOR);
    add(object == Object::Descriptor && is_future, NEWER_STORE);
    notes
}

/// Why there is no such cell.
fn reason(object: Object, damage: Damage) -> &'static str {
    match damage {
        Damage::FlipHeader => "Age header: only a pack has one.",
        Damage::Swap | Damage::Sibling if object == Object::Descriptor => {
            "Another of the store: there is one descriptor."
        }
        Damage::DeleteWhole => "With its signature: for what has one, and once for the pair.",
        Damage::Stray => "Another name: once for each folder.",
        _ if object == Object::Older => "What adds a receipt is the same whichever is damaged: see the newest.",
        Damage::Replayed | Damage::Renamed => {
            "Replays: packs and pack lists are named by their hash, so an old one under its name is no replay; for the others \
             the signature comes along."
        }
        Damage::Forged => {
            "Forged: packs and pack lists count only if a signed receipt leads to them; nobody signs the descriptor."
        }
        Damage::Copied | Damage::CopiedOut => "Another source: only receipts lie in the folder of a source.",
        Damage::Format | Damage::Requires => {
            "Future format: packs, pack lists and signatures have no envelope; that of the root is inside a pack, whose hash the \
             receipt leads to."
        }
        Damage::Lied => "Lies: only a receipt promises anything.",
        Damage::SameNumber => "Numbers: only receipts and keys objects have them.",
        _ => panic!("{object:?} {damage:?} is missing without a reason"),
    }
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Names => "`list`",
            Self::Hash => "`hash`",
            Self::Decrypt => "`decrypt`",
        }
    }
}

impl Snap {
    const fn name(self) -> &'static str {
        match self {
            Self::Other => "that of staging",
            Self::One => "One",
            Self::Two => "Two",
            Self::Three => "Three",
            Self::Planted => "what was added",
        }
    }
}

impl Object {
    const ALL: [Self; 10] = [
        Self::Data,
        Self::Leaves,
        Self::Root,
        Self::List,
        Self::Newest,
        Self::Older,
        Self::Signature,
        Self::Keys,
        Self::KeysSignature,
        Self::Descriptor,
    ];

    const fn short(self) -> &'static str {
        match self {
            Self::Data => "pack: content",
            Self::Leaves => "pack: leaf",
            Self::Root => "pack: root",
            Self::List => "pack list",
            Self::Newest => "newest receipt",
            Self::Older => "older receipt",
            Self::Signature => "its signature",
            Self::Keys => "keys object",
            Self::KeysSignature => "its signature",
            Self::Descriptor => "descriptor",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Data => "The pack with the content of `mid/`, which Two and Three need",
            Self::Leaves => "The pack with the leaf of the manifest that names `mid/`, which Two and Three need",
            Self::Root => "The pack with the root of the manifest of Three",
            Self::List => "The pack list of Three",
            Self::Newest => "The receipt of Three, the newest snapshot",
            Self::Older => "The receipt of Two",
            Self::Signature => "The signature of the receipt of Three",
            Self::Keys => "The newer of two keys objects",
            Self::KeysSignature => "The signature of the newer keys object",
            Self::Descriptor => "The descriptor, `opsctl-store.json`",
        }
    }
}

impl Damage {
    const ALL: [Self; 23] = [
        Self::FlipFirst,
        Self::FlipHeader,
        Self::FlipMiddle,
        Self::FlipLast,
        Self::CutByte,
        Self::CutHalf,
        Self::CutAll,
        Self::Append,
        Self::Delete,
        Self::DeleteWhole,
        Self::Swap,
        Self::Sibling,
        Self::Foreign,
        Self::Replayed,
        Self::Renamed,
        Self::Forged,
        Self::Copied,
        Self::CopiedOut,
        Self::Format,
        Self::Requires,
        Self::SameNumber,
        Self::Lied,
        Self::Stray,
    ];

    /// What is done, to this object or to any.
    fn text(self, object: Option<Object>) -> &'static str {
        let is_pack = object.is_some_and(Object::is_pack);
        match self {
            Self::FlipFirst => "a bit of the first byte flipped",
            Self::FlipHeader => "a bit of the age header flipped",
            Self::FlipMiddle => "a bit in the middle flipped",
            Self::FlipLast => "a bit of the last byte flipped",
            Self::CutByte => "the last byte cut off",
            Self::CutHalf => "cut to half",
            Self::CutAll => "cut to nothing",
            Self::Append => "a byte appended",
            Self::Delete => "deleted",
            Self::DeleteWhole => "deleted with its signature",
            Self::Swap => "swapped with another of the store",
            Self::Sibling => "replaced by another of the store",
            Self::Foreign if is_pack => {
                "replaced by another archive to the same recipient, of the same size (tar, zstd, age)"
            }
            Self::Foreign => "replaced by a valid one made elsewhere",
            Self::Replayed => "replaced by an older one with its signature",
            Self::Renamed => "added: an older one with its signature, under a newer name",
            Self::Forged if object == Some(Object::Keys) => {
                "added: the next, with a recipient more, signed by another signer"
            }
            Self::Forged => "added: the next, signed by another signer",
            Self::Copied => "added: that of source `staging`, which is newer, with its signature",
            Self::CopiedOut => "copied with its signature to source `staging`",
            Self::Format if object == Some(Object::Descriptor) => "its `format` set to 2",
            Self::Format => "added: the next, with `\"format\": 2`, signed by the right signer",
            Self::Requires if object == Some(Object::Descriptor) => "its `requires` set to `[\"unknown\"]`",
            Self::Requires => "added: the next, with `\"requires\": [\"unknown\"]`, signed by the right signer",
            Self::SameNumber => "added: another of the same number, signed by the right signer",
            Self::Lied => "added: the next, signed by the right signer, with a pack list that leaves packs out",
            Self::Stray => "added: an object beside it, with a name that is not of the format",
        }
    }
}
