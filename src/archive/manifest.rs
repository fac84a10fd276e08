//! Manifests: every path of a snapshot, as a tree of small chunks below one root.
//!
//! Leaves are JSON Lines of entries in walk order. A leaf ends where its content says so, not at a
//! count, so an almost unchanged tree has almost the same leaves and stores almost nothing. Above
//! the leaves, where there are many, stand branches: JSON Lines of references, cut by the same rule.
//!
//! Invariants: no node is larger than [`MAX_NODE`] plus one line, unless it has only a few lines; entries
//! are strictly increasing; a path's directory stands before it. [`Sequence`] enforces the last two for readers.

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Extent, Kind};
use super::hash::Hash;
use super::path::EntryPath;
use super::receipt::{Counts, Envelope};
use super::{FORMAT, FormatError, check_envelope};

/// A node is not cut below this size.
pub const MIN_NODE: usize = 4 << 10;
/// A node is always cut at this size.
pub const MAX_NODE: usize = 16 << 10;
/// A leaf is not cut before it has this many lines, a branch not before [`MIN_BRANCH`]: however long the
/// paths are, each level of the tree is much shorter than the one below.
pub const MIN_LEAF: usize = 2;
/// See [`MIN_LEAF`].
pub const MIN_BRANCH: usize = 8;
/// More children than this, or more than [`MAX_CHILDREN_BYTES`] of them, get a level of branches above them.
pub const MAX_CHILDREN: usize = 128;
/// See [`MAX_CHILDREN`]; [`MIN_BRANCH`] children are allowed in any case.
pub const MAX_CHILDREN_BYTES: usize = 1 << 20;
/// The longest path that is captured. Far beyond what can be opened by name (4,096), and short enough
/// that every node stays well below the largest frame.
pub const MAX_PATH: usize = 32 << 10;
/// Deepest tree that a reader follows: enough for 10^12 files.
pub const MAX_DEPTH: u32 = 6;
const ROOT_TYPE: &str = "opsctl-root";

/// A finished node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The first path at or below it.
    pub first: EntryPath,
    /// JSON Lines.
    pub bytes: Vec<u8>,
}

/// Cuts a sequence of lines into nodes.
#[derive(Debug)]
pub struct NodeCutter {
    first: Option<EntryPath>,
    bytes: Vec<u8>,
    lines: usize,
    min_lines: usize,
}

impl Default for NodeCutter {
    /// A cutter of leaves.
    fn default() -> Self {
        Self::new(MIN_LEAF)
    }
}

impl NodeCutter {
    /// A cutter of nodes with at least `min_lines` lines, the last one excepted.
    #[must_use]
    pub const fn new(min_lines: usize) -> Self {
        Self { first: None, bytes: Vec::new(), lines: 0, min_lines }
    }

    /// Adds a line (without its newline) and returns the node that it completes, if it does.
    pub fn push(&mut self, path: &EntryPath, line: &[u8]) -> Option<Node> {
        self.first.get_or_insert_with(|| path.clone());
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.lines += 1;
        // The path alone decides, so that changed content does not move the cut: 1 in 16 paths ends a node.
        let chosen = Hash::of(path.as_bytes()).0[0].is_multiple_of(16);
        let full = self.bytes.len() >= MAX_NODE || (chosen && self.bytes.len() >= MIN_NODE);
        let cut = full && self.lines >= self.min_lines;
        if cut { self.finish() } else { None }
    }

    /// The last node, if any line was not returned yet.
    pub fn finish(&mut self) -> Option<Node> {
        let first = self.first.take()?;
        self.lines = 0;
        Some(Node { first, bytes: std::mem::take(&mut self.bytes) })
    }
}

/// A reference to a node: one line of a branch, or one child of the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireRef", into = "WireRef")]
pub struct NodeRef {
    /// The first path at or below the node.
    pub first: EntryPath,
    /// Where the node is.
    pub extent: Extent,
}

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
struct WireRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_b64: Option<String>,
    x: Extent,
}

impl From<NodeRef> for WireRef {
    fn from(node: NodeRef) -> Self {
        let (first, first_b64) = node.first.to_json();
        Self { first, first_b64, x: node.extent }
    }
}

impl TryFrom<WireRef> for NodeRef {
    type Error = FormatError;
    fn try_from(wire: WireRef) -> Result<Self, FormatError> {
        Ok(Self { first: EntryPath::from_json(wire.first, wire.first_b64)?, extent: wire.x })
    }
}

/// What was left out on purpose, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Excluded {
    /// `--exclude` patterns.
    #[serde(default)]
    pub globs: Vec<String>,
    /// The profile's recoverable paths, if they were left out.
    #[serde(default)]
    pub recoverable: Vec<String>,
}

/// The manifest root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Always `opsctl-root`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format version.
    pub format: u32,
    /// Abilities a reader must have.
    pub requires: Vec<String>,
    /// Levels of branches between the root and the leaves; 0 if the children are leaves.
    pub depth: u32,
    /// The topmost nodes.
    pub children: Vec<NodeRef>,
    /// The same counts as in the receipt.
    pub counts: Counts,
    /// Where the facts recorded at capture are, if any.
    pub facts: Option<Extent>,
    /// What was left out.
    #[serde(default)]
    pub excluded: Excluded,
}

impl Root {
    /// A root above `children`.
    #[must_use]
    pub fn new(depth: u32, children: Vec<NodeRef>, counts: Counts, excluded: Excluded) -> Self {
        Self {
            kind: ROOT_TYPE.to_owned(),
            format: FORMAT,
            requires: Vec::new(),
            depth,
            children,
            counts,
            facts: None,
            excluded,
        }
    }

    /// Reads a root.
    ///
    /// # Errors
    /// When it is damaged or of another format.
    pub fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let json = |source| FormatError::Json { what: "manifest root", source };
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(json)?;
        check_envelope("manifest root", ROOT_TYPE, &envelope.kind, envelope.format, &envelope.requires)?;
        let root: Self = serde_json::from_slice(bytes).map_err(json)?;
        if root.depth > MAX_DEPTH {
            return Err(FormatError::malformed("the manifest is deeper than any real one"));
        }
        Ok(root)
    }
}

/// Reads the references of a branch.
///
/// # Errors
/// When a line is not a reference.
pub fn read_branch(bytes: &[u8]) -> Result<Vec<NodeRef>, FormatError> {
    lines(bytes)
        .map(|line| {
            serde_json::from_slice(line).map_err(|source| FormatError::Json { what: "manifest branch", source })
        })
        .collect()
}

/// The lines of JSON Lines, without empty ones.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// Checks entries one after another: strictly increasing, each below a directory that came before.
#[derive(Debug, Default)]
pub struct Sequence {
    last: Option<EntryPath>,
    /// The directories that contain the last entry, outermost first.
    open: Vec<EntryPath>,
}

impl Sequence {
    /// Takes the next entry.
    ///
    /// # Errors
    /// When it repeats or precedes the last one, or has no directory to be in.
    pub fn take(&mut self, entry: &Entry) -> Result<(), FormatError> {
        self.step(&entry.path, entry.kind == Kind::Dir && entry.is_captured())
    }

    /// As [`Sequence::take`], for a path of which only is known whether others may lie below it.
    ///
    /// # Errors
    /// As [`Sequence::take`].
    pub fn step(&mut self, path: &EntryPath, is_open: bool) -> Result<(), FormatError> {
        if self.last.as_ref().is_some_and(|last| last >= path) {
            return Err(FormatError::malformed(format!("manifest entry {path:?} is repeated or out of order")));
        }
        while self.open.last().is_some_and(|dir| !path.is_within(dir)) {
            self.open.pop();
        }
        if let Some((parent, _)) = path.split_last()
            && self.open.last() != Some(&parent)
        {
            return Err(FormatError::malformed(format!("manifest entry {path:?} has no directory before it")));
        }
        if is_open {
            self.open.push(path.clone());
        }
        self.last = Some(path.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::FrameRef;
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes().to_vec()).unwrap()
    }

    fn cut(names: &[String], line_len: usize) -> Vec<Node> {
        let mut cutter = NodeCutter::new(1);
        let mut nodes: Vec<Node> = names.iter().filter_map(|n| cutter.push(&path(n), &vec![b'x'; line_len])).collect();
        nodes.extend(cutter.finish());
        nodes
    }

    #[test]
    fn one_new_path_changes_few_nodes() {
        let mut names: Vec<String> = (0..5000).map(|n| format!("f{n:05}")).collect();
        let before = cut(&names, 300);
        assert!(before.iter().all(|n| n.bytes.len() <= MAX_NODE + 301));
        names.insert(2500, "f02500x".into());
        let after = cut(&names, 300);
        let firsts: std::collections::HashSet<_> =
            before.iter().map(|n| (n.first.as_bytes().to_vec(), n.bytes.len())).collect();
        let new = after.iter().filter(|n| !firsts.contains(&(n.first.as_bytes().to_vec(), n.bytes.len()))).count();
        assert!(new <= 4, "{new} of {} nodes changed", after.len());
    }

    #[test]
    fn a_line_longer_than_a_node_stands_alone() {
        let nodes = cut(&["a".into(), "b".into()], 3 * MAX_NODE);
        assert_eq!(nodes.len(), 2);
    }

    #[test]
    fn nodes_of_long_lines_still_hold_several() {
        let mut cutter = NodeCutter::new(MIN_BRANCH);
        let line = vec![b'x'; 2 * MAX_NODE];
        let full = (0..MIN_BRANCH).filter_map(|n| cutter.push(&path(&format!("p{n}")), &line)).count();
        assert_eq!((full, cutter.finish()), (1, None));
    }

    #[test]
    fn entries_out_of_order_repeated_or_without_directory_are_refused() {
        let dir = |p: &str| Entry::new(path(p), Kind::Dir);
        let file = |p: &str| Entry::new(path(p), Kind::Fifo);
        let run = |entries: &[Entry]| {
            let mut sequence = Sequence::default();
            entries.iter().try_for_each(|e| sequence.take(e))
        };
        run(&[dir(""), dir("a"), file("a/b"), file("c")]).unwrap();
        for bad in [
            vec![dir(""), file("b"), file("a")],
            vec![dir(""), file("a"), file("a")],
            vec![dir(""), file("a"), file("a/b")],
            vec![dir(""), file("a/b")],
            vec![file("a")],
            vec![dir(""), dir("a"), dir("b"), file("a/x")],
        ] {
            assert!(run(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_to_an_impossible_frame_is_refused() {
        let hash = Hash([7; 32]);
        let frame = FrameRef { offset: 0, stored: 40, decoded: 512 };
        let extent = Extent { pack: hash, frame, chunk: hash, offset: 0, len: 3 };
        let node = NodeRef { first: path("a"), extent };
        let line = serde_json::to_string(&node).unwrap();
        assert_eq!(read_branch(line.as_bytes()).unwrap(), std::slice::from_ref(&node));
        let root = Root::new(0, vec![node], Counts::default(), Excluded::default());
        let root = serde_json::to_string(&root).unwrap();
        for lie in ["[0,40,8388609]", "[0,16777217,512]", "[1099511627777,40,512]", "[0,40,4294967296]"] {
            let lying = |text: &str| text.replace("[0,40,512]", lie).into_bytes();
            assert!(read_branch(&lying(&line)).is_err() && Root::read(&lying(&root)).is_err(), "{lie}");
        }
    }

    #[test]
    fn a_root_of_a_newer_format_is_refused() {
        let root = Root::new(0, vec![], Counts::default(), Excluded::default());
        let text = serde_json::to_string(&root).unwrap();
        assert_eq!(Root::read(text.as_bytes()).unwrap(), root);
        assert!(Root::read(text.replace("\"format\":1", "\"format\":2").as_bytes()).is_err());
        assert!(Root::read(text.replace("\"requires\":[]", "\"requires\":[\"x\"]").as_bytes()).is_err());
        assert!(Root::read(text.replace("\"depth\":0", "\"depth\":99").as_bytes()).is_err());
    }
}
