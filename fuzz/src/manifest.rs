//! What a manifest is made of: root, branches, entry lines, paths. One input is read as each of them.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use opsctl::archive::entry::{Content, Entry, Extent, Kind, MAX_FRAME};
use opsctl::archive::manifest::read_branch;
use opsctl::archive::manifest::{MAX_DEPTH, MAX_NODE, MIN_BRANCH, NodeCutter, NodeRef, Root, Sequence, lines};
use opsctl::archive::path::EntryPath;
use opsctl::archive::receipt::Counts;

pub fn run(data: &[u8]) {
    paths(data);
    if let Ok(root) = Root::read(data) {
        check_root(&root);
    }
    if let Ok(nodes) = read_branch(data) {
        nodes.iter().for_each(check_reference);
        cut_again(&nodes);
    }
    leaf(data);
}

/// The input as one path, and as two with a NUL between them.
fn paths(data: &[u8]) {
    let path = EntryPath::new(data.to_vec()).ok();
    if let Some(path) = &path {
        stays_inside(path);
        let (text, b64) = path.to_json();
        assert!(text.is_some() != b64.is_some());
        assert_eq!(&EntryPath::from_json(text, b64).unwrap(), path);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(decoded) = EntryPath::from_json(None, Some(text.to_owned()))
    {
        stays_inside(&decoded);
    }
    let Some(middle) = data.iter().position(|b| *b == 0) else { return };
    let two = (EntryPath::new(data[..middle].to_vec()), EntryPath::new(data[middle + 1..].to_vec()));
    if let (Ok(a), Ok(b)) = two {
        let components = |path: &EntryPath| path.components().map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(a.cmp(&b), components(&a).cmp(&components(&b)), "the order is that of a walk");
        assert_eq!(a.is_within(&b), components(&a).starts_with(&components(&b)));
    }
}

/// Whatever is accepted can be walked from a directory down without leaving it.
fn stays_inside(path: &EntryPath) {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_bytes();
    assert!(!bytes.contains(&0) && !bytes.starts_with(b"/") && !bytes.ends_with(b"/"));
    let as_path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    assert!(as_path.components().all(|part| matches!(part, Component::Normal(_))));
    assert_eq!(as_path.components().count(), path.components().count(), "`.` and empty parts vanish in a Path");
    assert!(path.components().all(|name| (1..=255).contains(&name.len()) && name != b"." && name != b".."));
    assert!(path.is_within(&EntryPath::root()));
    let mut above = path.clone();
    while let Some((parent, name)) = above.split_last() {
        assert_eq!(parent.join(name).unwrap(), above);
        assert!(parent < above && above.is_within(&parent) && !parent.is_within(&above));
        above = parent;
    }
    assert_eq!(above, EntryPath::root());
}

fn check_root(root: &Root) {
    assert!(root.depth <= MAX_DEPTH);
    root.children.iter().for_each(check_reference);
    root.facts.iter().for_each(check_frame);
    let text = serde_json::to_vec(root).unwrap();
    assert_eq!(&Root::read(&text).unwrap(), root);
}

fn check_reference(node: &NodeRef) {
    stays_inside(&node.first);
    check_frame(&node.extent);
    let text = serde_json::to_vec(node).unwrap();
    assert_eq!(&serde_json::from_slice::<NodeRef>(&text).unwrap(), node);
}

/// The limits of the format, whichever document names the frame: memory is taken for these lengths.
pub(super) fn check_frame(extent: &Extent) {
    let frame = extent.frame;
    assert!(frame.decoded <= MAX_FRAME && frame.stored <= 2 * MAX_FRAME && frame.offset <= 1 << 40);
}

fn check_extent(extent: &Extent) {
    check_frame(extent);
    assert!(extent.len > 0 && u64::from(extent.offset) + u64::from(extent.len) <= u64::from(extent.frame.decoded));
}

/// References cut into nodes again are the same references, in nodes of bounded size.
fn cut_again(nodes: &[NodeRef]) {
    let mut cutter = NodeCutter::new(MIN_BRANCH);
    let (mut cut, mut longest) = (Vec::new(), 0);
    for node in nodes {
        let line = serde_json::to_vec(node).unwrap();
        longest = longest.max(line.len() + 1);
        cut.extend(cutter.push(&node.first, &line));
    }
    cut.extend(cutter.finish());
    assert!(cut.iter().all(|node| node.bytes.len() <= (MAX_NODE + longest).max(MIN_BRANCH * longest)));
    let bytes: Vec<u8> = cut.iter().flat_map(|node| node.bytes.clone()).collect();
    assert_eq!(read_branch(&bytes).unwrap(), nodes);
}

/// The lines as entries of one leaf.
fn leaf(data: &[u8]) {
    let mut sequence = Sequence::default();
    let mut model = Model::default();
    let mut counts = Counts::default();
    for line in lines(data) {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
        check_entry(&entry);
        let expected = model.allows(&entry);
        assert_eq!(sequence.take(&entry).is_ok(), expected, "{:?}", entry.path);
        if expected {
            model.add(&entry);
            counts.add(&entry);
        } else {
            // A reader stops at the first that breaks the order.
            return;
        }
    }
}

fn check_entry(entry: &Entry) {
    stays_inside(&entry.path);
    entry.inline_extents().iter().for_each(check_extent);
    assert!(entry.data_len() <= entry.size && entry.mode <= 0o7777 && entry.mtime.1 < 1_000_000_000);
    let mut end = 0;
    for (offset, len) in &entry.holes {
        assert!(*offset >= end && *len > 0);
        end = offset.checked_add(*len).unwrap();
    }
    assert!(end <= entry.size);
    if let (Content::Inline(extents), Some(_)) = (&entry.content, &entry.sha256) {
        assert_eq!(extents.iter().map(|x| u64::from(x.len)).sum::<u64>(), entry.data_len());
    }
    if entry.kind == Kind::Symlink {
        assert!(!entry.target.is_empty() && !entry.target.contains(&0));
    }
    let text = serde_json::to_string(entry).unwrap();
    assert!(!text.contains('\n'), "one line");
    let again: Entry = serde_json::from_str(&text).unwrap();
    assert_eq!(&again, entry);
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}

/// The order of entries by its definition, slowly.
#[derive(Default)]
struct Model {
    /// Every path so far, and whether others may lie below it.
    seen: BTreeMap<Vec<Vec<u8>>, bool>,
}

impl Model {
    fn key(path: &EntryPath) -> Vec<Vec<u8>> {
        path.components().map(<[u8]>::to_vec).collect()
    }

    fn allows(&self, entry: &Entry) -> bool {
        let key = Self::key(&entry.path);
        let increases = self.seen.last_key_value().is_none_or(|(last, _)| *last < key);
        let has_directory = match key.split_last() {
            Some((_, parent)) => self.seen.get(parent).is_some_and(|open| *open),
            None => true,
        };
        increases && has_directory
    }

    fn add(&mut self, entry: &Entry) {
        let open = entry.kind == Kind::Dir && entry.missing.is_none() && entry.excluded.is_none();
        self.seen.insert(Self::key(&entry.path), open);
    }
}
