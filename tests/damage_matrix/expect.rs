//! What every kind of damage to every kind of object must lead to, written down. The test compares the program with this,
//! and `docs/damage-matrix.md` is made from it.

use Damage::*;
use Gets::*;
use Level::*;
use Next::*;
use Object::*;
use Seen::*;
use Snap::*;

/// A snapshot of the prepared store, see `site.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Snap {
    /// Of source `staging`; the others are of `production`.
    Other,
    One,
    Two,
    Three,
    /// What the damage consists of, where that is a receipt.
    Planted,
}

impl Snap {
    pub const TAKEN: [Self; 4] = [One, Two, Three, Other];
}

/// A kind of object, and which one of them is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// With the content of `mid/`: needed by Two and Three.
    Data,
    /// With the leaf of the manifest that names `mid/`: needed by Two and Three.
    Leaves,
    /// With the root of the manifest of Three.
    Root,
    /// Of Three.
    List,
    /// Of Three.
    Newest,
    /// Of Two.
    Older,
    /// Of the receipt of Three.
    Signature,
    /// The newer of two.
    Keys,
    KeysSignature,
    Descriptor,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    FlipFirst,
    FlipHeader,
    FlipMiddle,
    FlipLast,
    CutByte,
    CutHalf,
    CutAll,
    Append,
    Delete,
    DeleteWhole,
    Swap,
    Sibling,
    Foreign,
    Replayed,
    Renamed,
    Forged,
    /// A receipt of staging among those of production.
    Copied,
    /// The other way.
    CopiedOut,
    Format,
    Requires,
    SameNumber,
    Lied,
    Stray,
}

/// A level of `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Names,
    Hash,
    Decrypt,
}

/// How `check` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// From this level on, with exit 4; the levels before end with 0.
    At(Level),
    /// At every level, by a warning and exit 0.
    Warned,
    /// Not at all.
    Never,
}

/// What a restore of one snapshot, named by its id, gives. Never a file that is not what was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gets {
    /// Everything, exit 0.
    All,
    /// Everything but so many of these files, which are named; exit 4.
    Loses(usize, &'static [&'static str]),
    /// Everything but a range of paths, which is named; exit 4.
    Gap,
    /// Nothing, exit 4: what it needs first is damaged.
    Nothing,
    /// Nothing, exit 4: it is not believed. `latest` and `--at` pass it over and say so.
    Refused,
    /// Nothing, exit 10: no such snapshot.
    Gone,
}

/// What the next snapshot of the source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Commits, and what it commits restores.
    Whole,
    /// The same, and it names the object.
    Said,
    /// Commits what needs the damaged object: it restores as Three does.
    Hurt,
    /// Ends with this code, commits nothing.
    Refuses(i32),
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub object: Object,
    pub damage: Damage,
    pub seen: Seen,
    /// The snapshots that the finding names.
    pub names: &'static [Snap],
    /// What restores give that do not give everything.
    pub restores: &'static [(Snap, Gets)],
    pub next: Next,
}

const fn cell(
    object: Object,
    damage: Damage,
    seen: Seen,
    names: &'static [Snap],
    restores: &'static [(Snap, Gets)],
    next: Next,
) -> Cell {
    Cell { object, damage, seen, names, restores, next }
}

/// The content of the damaged pack.
pub const MID: &[&str] = &["mid/1", "mid/2", "mid/3"];
/// The content of the pack that it is swapped with.
pub const LATE: &[&str] = &["zlate/file"];
const BOTH: &[&str] = &["mid/1", "mid/2", "mid/3", "zlate/file"];

const LOSE_ONE: &[(Snap, Gets)] = &[(Two, Loses(1, MID)), (Three, Loses(1, MID))];
const LOSE_TWO: &[(Snap, Gets)] = &[(Two, Loses(2, MID)), (Three, Loses(2, MID))];
const LOSE_ALL: &[(Snap, Gets)] = &[(Two, Loses(3, MID)), (Three, Loses(3, MID))];
const LOSE_BOTH: &[(Snap, Gets)] = &[(Two, Loses(3, MID)), (Three, Loses(4, BOTH))];
const GAPS: &[(Snap, Gets)] = &[(Two, Gap), (Three, Gap)];

pub const CELLS: &[Cell] = &[
    // A pack with content.
    cell(Data, FlipFirst, At(Hash), &[Two, Three], LOSE_ALL, Hurt),
    cell(Data, FlipHeader, At(Hash), &[Two, Three], LOSE_ALL, Hurt),
    cell(Data, FlipMiddle, At(Hash), &[Two, Three], LOSE_ONE, Hurt),
    cell(Data, FlipLast, At(Hash), &[Two, Three], LOSE_ONE, Hurt),
    cell(Data, CutByte, At(Names), &[Two, Three], LOSE_ONE, Whole),
    cell(Data, CutHalf, At(Names), &[Two, Three], LOSE_TWO, Whole),
    cell(Data, CutAll, At(Names), &[Two, Three], LOSE_ALL, Whole),
    cell(Data, Append, At(Names), &[Two, Three], &[], Whole),
    cell(Data, Delete, At(Names), &[Two, Three], LOSE_ALL, Whole),
    cell(Data, Swap, At(Names), &[Two, Three], LOSE_BOTH, Whole),
    cell(Data, Sibling, At(Names), &[Two, Three], LOSE_ALL, Whole),
    cell(Data, Foreign, At(Hash), &[Two, Three], LOSE_ALL, Hurt),
    cell(Data, Stray, Never, &[], &[], Whole),
    // A pack with leaves of the manifest.
    cell(Leaves, FlipFirst, At(Hash), &[Two, Three], GAPS, Hurt),
    cell(Leaves, FlipHeader, At(Hash), &[Two, Three], GAPS, Hurt),
    cell(Leaves, FlipMiddle, At(Hash), &[Two, Three], GAPS, Hurt),
    cell(Leaves, FlipLast, At(Hash), &[Two, Three], GAPS, Hurt),
    cell(Leaves, CutByte, At(Names), &[Two, Three], GAPS, Whole),
    cell(Leaves, CutHalf, At(Names), &[Two, Three], GAPS, Whole),
    cell(Leaves, CutAll, At(Names), &[Two, Three], GAPS, Whole),
    cell(Leaves, Append, At(Names), &[Two, Three], &[], Whole),
    cell(Leaves, Delete, At(Names), &[Two, Three], GAPS, Whole),
    cell(Leaves, Swap, At(Names), &[Two, Three], GAPS, Whole),
    cell(Leaves, Sibling, At(Names), &[Two, Three], GAPS, Whole),
    cell(Leaves, Foreign, At(Hash), &[Two, Three], GAPS, Hurt),
    // The pack with the root of the manifest.
    cell(Root, FlipFirst, At(Hash), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, FlipHeader, At(Hash), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, FlipMiddle, At(Hash), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, FlipLast, At(Hash), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, CutByte, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, CutHalf, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, CutAll, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, Append, At(Names), &[Three], &[], Whole),
    cell(Root, Delete, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, Swap, At(Names), &[Two, Three], &[(Two, Nothing), (Three, Nothing)], Whole),
    cell(Root, Sibling, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(Root, Foreign, At(Hash), &[Three], &[(Three, Nothing)], Whole),
    // The pack list.
    cell(List, FlipFirst, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, FlipMiddle, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, FlipLast, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, CutByte, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, CutHalf, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, CutAll, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, Append, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, Delete, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, Swap, At(Names), &[Two, Three], &[(Two, Nothing), (Three, Nothing)], Whole),
    cell(List, Sibling, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, Foreign, At(Names), &[Three], &[(Three, Nothing)], Whole),
    cell(List, Stray, Never, &[], &[], Whole),
    // The receipt of the newest snapshot.
    cell(Newest, FlipFirst, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, FlipMiddle, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, FlipLast, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, CutByte, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, CutHalf, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, CutAll, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, Append, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, Delete, Warned, &[], &[(Three, Gone)], Said),
    cell(Newest, DeleteWhole, Never, &[], &[(Three, Gone)], Said),
    cell(Newest, Swap, At(Names), &[Two, Three], &[(Two, Refused), (Three, Refused)], Whole),
    cell(Newest, Sibling, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, Foreign, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, Replayed, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Newest, Renamed, At(Names), &[Planted], &[], Whole),
    cell(Newest, Forged, At(Names), &[Planted], &[], Whole),
    cell(Newest, Copied, At(Names), &[Planted], &[], Whole),
    cell(Newest, CopiedOut, At(Names), &[Planted], &[], Whole),
    cell(Newest, Format, Warned, &[], &[], Whole),
    cell(Newest, Requires, Warned, &[], &[], Whole),
    cell(Newest, SameNumber, Warned, &[], &[], Whole),
    cell(Newest, Lied, At(Decrypt), &[Planted], &[(Planted, Nothing)], Whole),
    cell(Newest, Stray, At(Names), &[], &[], Whole),
    // The receipt of a snapshot that another follows.
    cell(Older, FlipFirst, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, FlipMiddle, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, FlipLast, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, CutByte, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, CutHalf, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, CutAll, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, Append, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, Delete, Warned, &[], &[(Two, Gone)], Whole),
    cell(Older, DeleteWhole, Warned, &[], &[(Two, Gone)], Whole),
    cell(Older, Swap, At(Names), &[One, Two], &[(One, Refused), (Two, Refused)], Whole),
    cell(Older, Sibling, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, Foreign, At(Names), &[Two], &[(Two, Refused)], Whole),
    cell(Older, Replayed, At(Names), &[Two], &[(Two, Refused)], Whole),
    // The signature of a receipt.
    cell(Signature, FlipFirst, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Signature, FlipMiddle, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Signature, FlipLast, Never, &[], &[], Whole),
    cell(Signature, CutByte, Never, &[], &[], Whole),
    cell(Signature, CutHalf, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Signature, CutAll, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Signature, Append, Never, &[], &[], Whole),
    cell(Signature, Delete, At(Names), &[Three], &[(Three, Refused)], Said),
    cell(Signature, Swap, At(Names), &[Two, Three], &[(Two, Refused), (Three, Refused)], Whole),
    cell(Signature, Sibling, At(Names), &[Three], &[(Three, Refused)], Whole),
    cell(Signature, Foreign, At(Names), &[Three], &[(Three, Refused)], Whole),
    // The newest keys object.
    cell(Keys, FlipFirst, At(Names), &[], &[], Refuses(4)),
    cell(Keys, FlipMiddle, At(Names), &[], &[], Refuses(4)),
    cell(Keys, FlipLast, At(Names), &[], &[], Refuses(4)),
    cell(Keys, CutByte, At(Names), &[], &[], Refuses(4)),
    cell(Keys, CutHalf, At(Names), &[], &[], Refuses(4)),
    cell(Keys, CutAll, At(Names), &[], &[], Refuses(4)),
    cell(Keys, Append, At(Names), &[], &[], Refuses(4)),
    cell(Keys, Delete, Warned, &[], &[], Refuses(4)),
    cell(Keys, DeleteWhole, Never, &[], &[], Refuses(4)),
    cell(Keys, Swap, At(Names), &[], &[], Refuses(12)),
    cell(Keys, Sibling, At(Names), &[], &[], Refuses(4)),
    cell(Keys, Foreign, At(Names), &[], &[], Refuses(4)),
    cell(Keys, Replayed, At(Names), &[], &[], Refuses(4)),
    cell(Keys, Renamed, At(Names), &[], &[], Said),
    cell(Keys, Forged, At(Names), &[], &[], Said),
    cell(Keys, Format, At(Names), &[], &[], Refuses(4)),
    cell(Keys, Requires, At(Names), &[], &[], Refuses(4)),
    cell(Keys, SameNumber, At(Names), &[], &[], Said),
    cell(Keys, Stray, At(Names), &[], &[], Said),
    // The signature of the newest keys object.
    cell(KeysSignature, FlipFirst, At(Names), &[], &[], Refuses(4)),
    cell(KeysSignature, FlipMiddle, At(Names), &[], &[], Refuses(4)),
    cell(KeysSignature, FlipLast, Never, &[], &[], Whole),
    cell(KeysSignature, CutByte, Never, &[], &[], Whole),
    cell(KeysSignature, CutHalf, At(Names), &[], &[], Refuses(4)),
    cell(KeysSignature, CutAll, At(Names), &[], &[], Refuses(4)),
    cell(KeysSignature, Append, Never, &[], &[], Whole),
    cell(KeysSignature, Delete, At(Names), &[], &[], Refuses(4)),
    cell(KeysSignature, Swap, At(Names), &[], &[], Refuses(12)),
    cell(KeysSignature, Sibling, At(Names), &[], &[], Refuses(4)),
    cell(KeysSignature, Foreign, At(Names), &[], &[], Refuses(4)),
    // The descriptor.
    cell(Descriptor, FlipFirst, At(Names), &[], &[], Said),
    cell(Descriptor, FlipMiddle, At(Names), &[], &[], Said),
    cell(Descriptor, FlipLast, At(Names), &[], &[], Said),
    cell(Descriptor, CutByte, At(Names), &[], &[], Said),
    cell(Descriptor, CutHalf, At(Names), &[], &[], Said),
    cell(Descriptor, CutAll, At(Names), &[], &[], Said),
    cell(Descriptor, Append, At(Names), &[], &[], Said),
    cell(Descriptor, Delete, At(Names), &[], &[], Said),
    cell(Descriptor, Foreign, At(Names), &[], &[], Said),
    cell(Descriptor, Format, At(Names), &[], &[], Refuses(4)),
    cell(Descriptor, Requires, At(Names), &[], &[], Refuses(4)),
    cell(Descriptor, Stray, Never, &[], &[], Whole),
];

impl Cell {
    /// What a restore of this snapshot gives.
    pub fn gets(&self, snap: Snap) -> Gets {
        self.restores.iter().find(|(of, _)| *of == snap).map_or(All, |(_, gets)| *gets)
    }

    /// The files that `check` names when it has the identity.
    pub fn files(&self) -> &'static [&'static str] {
        match (self.object, self.damage) {
            (Data, Stray) => &[],
            (Data, Swap) => BOTH,
            (Data, _) => MID,
            _ => &[],
        }
    }

    /// Whether a receipt that was added is one to be believed.
    pub fn believes_planted(&self) -> bool {
        self.object == Newest && matches!(self.damage, SameNumber | Lied)
    }
}

impl Object {
    pub const fn is_pack(self) -> bool {
        matches!(self, Data | Leaves | Root)
    }

    pub const fn is_keys(self) -> bool {
        matches!(self, Keys | KeysSignature)
    }

    /// Whether `list` reads it.
    pub const fn is_document(self) -> bool {
        !self.is_pack() && !matches!(self, List)
    }
}
