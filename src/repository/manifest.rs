//! Reads the manifest of a snapshot: every path in order, or only what lies below some paths.
//!
//! Invariants:
//! * Memory is bounded by a batch of leaves, whatever the number of files.
//! * Entries come out strictly increasing, each after its directory ([`Sequence`]), and a full read ends with the
//!   counts compared to those of root and receipt.
//! * A read below some paths fetches only the nodes that can hold them, their content and their ancestors.

use std::collections::VecDeque;

use crate::archive::FormatError;
use crate::archive::entry::{Content, Entry, Extent};
use crate::archive::keyring::Identities;
use crate::archive::manifest::{NodeRef, Root, Sequence, lines, read_branch};
use crate::archive::path::EntryPath;
use crate::archive::receipt::Counts;
use crate::cancel::Cancel;
use crate::{Context as _, Error, Result};

use super::chunks::ChunkReader;
use super::{Packs, Repository, Snapshot};

/// Leaves of one batch at most.
const LEAVES: usize = 256;
/// Bytes of leaves of one batch, unless a single one is larger.
const LEAF_BYTES: u64 = 8 << 20;
/// Branches that are read at once.
const BRANCHES: usize = 8;

/// The manifest of one snapshot.
pub struct Manifest<'a> {
    chunks: ChunkReader<'a>,
    root: Root,
    counts: Counts,
}

impl Repository {
    /// Opens the manifest of `snapshot`: reads pack list and root.
    ///
    /// # Errors
    /// Exit 4 for damage, 12 for a wrong identity, 130 when cancelled, else what the store says.
    pub async fn manifest<'a>(
        &'a self,
        snapshot: &Snapshot,
        identities: &'a Identities,
        cancel: &'a Cancel,
    ) -> Result<Manifest<'a>> {
        let what = || format!("reading the manifest of snapshot {}", snapshot.id);
        let packs = cancel.guard(self.packs(&snapshot.receipt)).await.context(what)?;
        let chunks = ChunkReader::new(self, packs, identities, cancel);
        let root = chunks.read_one(&snapshot.receipt.root).await.context(what)?;
        let root = Root::read(&root).context(what)?;
        Ok(Manifest { chunks, root, counts: snapshot.receipt.counts })
    }
}

impl<'a> Manifest<'a> {
    /// The root: counts, what was left out, where the facts are.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The packs of the snapshot.
    #[must_use]
    pub const fn packs(&self) -> &Packs {
        self.chunks.packs()
    }

    /// Reads single chunks of the snapshot.
    #[must_use]
    pub const fn chunks(&self) -> &ChunkReader<'a> {
        &self.chunks
    }

    /// A walk over all entries, or over those at and below `subtrees` with the directories above them.
    #[must_use]
    pub fn walk(&self, subtrees: Option<&[EntryPath]>) -> Walk<'_> {
        Walk::new(self, subtrees.map(<[EntryPath]>::to_vec))
    }

    /// Gives every entry of [`Manifest::walk`] to `each`, in order.
    ///
    /// # Errors
    /// Those of [`Walk::next`] and of `each`.
    pub async fn entries(
        &self,
        subtrees: Option<&[EntryPath]>,
        mut each: impl FnMut(Entry) -> Result<()>,
    ) -> Result<()> {
        let mut walk = self.walk(subtrees);
        while let Some(batch) = walk.next().await? {
            batch.into_iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    /// Where the content of `entry` is: its extents in order, each in a pack of this snapshot.
    ///
    /// # Errors
    /// Exit 4 when they do not add up to the entry's size or lie elsewhere; else as [`ChunkReader::read`].
    pub async fn extents(&self, entry: &Entry) -> Result<Vec<Extent>> {
        let extents = match &entry.content {
            Content::Inline(extents) => extents.clone(),
            Content::Listed(list) => {
                self.listed(list).await.context(|| format!("reading the extents of {:?}", entry.path))?
            }
        };
        extents.iter().try_for_each(|extent| self.packs().locate(extent).map(|_| ()))?;
        let len: u64 = extents.iter().map(|extent| u64::from(extent.len)).sum();
        if entry.sha256.is_some() && len != entry.data_len() {
            return Err(Error::integrity(format!("the extents of {:?} do not add up to its size", entry.path)));
        }
        Ok(extents)
    }

    async fn listed(&self, list: &[Extent]) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        let mut text = Vec::new();
        for piece in list {
            text.extend_from_slice(&self.chunks.read_one(piece).await?);
            // A line may go on in the next chunk.
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            parse_lines(&text[..whole], "extent list", &mut extents)?;
            text.drain(..whole);
        }
        parse_lines(&text, "extent list", &mut extents)?;
        Ok(extents)
    }
}

fn parse_lines<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str, out: &mut Vec<T>) -> Result<()> {
    for line in lines(bytes) {
        out.push(serde_json::from_slice(line).map_err(|source| FormatError::Json { what, source })?);
    }
    Ok(())
}

/// A node still to be read.
struct Pending {
    node: NodeRef,
    /// Every path in the node sorts before this one.
    before: Option<EntryPath>,
}

/// A walk over the entries of a manifest, batch by batch.
pub struct Walk<'m> {
    manifest: &'m Manifest<'m>,
    subtrees: Option<Vec<EntryPath>>,
    /// Nodes to read by height: leaves at 0, the children of the root last. Lower ones come first in order.
    levels: Vec<VecDeque<Pending>>,
    sequence: Sequence,
    counts: Counts,
    counts_must_match: bool,
    done: bool,
}

impl<'m> Walk<'m> {
    fn new(manifest: &'m Manifest<'m>, subtrees: Option<Vec<EntryPath>>) -> Self {
        let height = manifest.root.depth as usize;
        let mut walk = Self {
            manifest,
            subtrees,
            levels: (0..=height).map(|_| VecDeque::new()).collect(),
            sequence: Sequence::default(),
            counts: Counts::default(),
            counts_must_match: true,
            done: false,
        };
        walk.add(height, manifest.root.children.clone(), None);
        walk
    }

    /// Makes counts that differ a warning. Every entry is verified by hash in any case, so whoever needs the
    /// content should not go without it because of a wrong number.
    #[must_use]
    pub const fn whatever_the_counts(mut self) -> Self {
        self.counts_must_match = false;
        self
    }

    /// The next entries, in order; `None` at the end. Never an empty batch.
    ///
    /// # Errors
    /// Exit 4 for damage or a broken rule of the format, 12 for a wrong identity, 130 when cancelled, else what the
    /// store says. After an error the walk is over.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        while !self.done {
            let leaves = self.next_leaves().await?;
            if leaves.is_empty() {
                self.done = true;
                match self.check_counts() {
                    Err(error) if !self.counts_must_match => tracing::warn!("{error}"),
                    other => other?,
                }
                break;
            }
            let extents: Vec<Extent> = leaves.iter().map(|leaf| leaf.node.extent).collect();
            let texts = self.manifest.chunks.read(&extents).await.context(|| "reading the manifest".into())?;
            let mut entries = Vec::new();
            for (leaf, text) in leaves.iter().zip(texts) {
                self.take_leaf(leaf, &text, &mut entries)?;
            }
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }

    /// Takes the next leaves, expanding branches until there is a batch of them.
    async fn next_leaves(&mut self) -> Result<Vec<Pending>> {
        while self.levels[0].len() < LEAVES {
            let Some(height) = (1..self.levels.len()).find(|height| !self.levels[*height].is_empty()) else { break };
            let some = BRANCHES.min(self.levels[height].len());
            let branches: Vec<Pending> = self.levels[height].drain(..some).collect();
            let extents: Vec<Extent> = branches.iter().map(|branch| branch.node.extent).collect();
            let texts = self.manifest.chunks.read(&extents).await.context(|| "reading the manifest".into())?;
            for (branch, text) in branches.into_iter().zip(texts) {
                let children = read_branch(&text)?;
                if children.first().is_some_and(|child| child.first != branch.node.first) {
                    return Err(misplaced(&branch.node));
                }
                self.add(height - 1, children, branch.before);
            }
        }
        let sizes = self.levels[0].iter().take(LEAVES).scan(0, |total, leaf| {
            *total += u64::from(leaf.node.extent.len);
            Some(*total)
        });
        let some = sizes.take_while(|total| *total <= LEAF_BYTES).count().max(1).min(self.levels[0].len());
        Ok(self.levels[0].drain(..some).collect())
    }

    /// Queues the nodes that can hold something wanted.
    fn add(&mut self, height: usize, nodes: Vec<NodeRef>, before: Option<EntryPath>) {
        let mut ends: Vec<Option<EntryPath>> = nodes.iter().skip(1).map(|next| Some(next.first.clone())).collect();
        ends.push(before);
        for (node, before) in nodes.into_iter().zip(ends) {
            if self.can_hold_wanted(&node.first, before.as_ref()) {
                self.levels[height].push_back(Pending { node, before });
            }
        }
    }

    /// Whether a node with paths from `first` up to, not including, `before` can hold a wanted path.
    fn can_hold_wanted(&self, first: &EntryPath, before: Option<&EntryPath>) -> bool {
        let reaches = |path: &EntryPath| first <= path && before.is_none_or(|before| path < before);
        let holds = |subtree: &EntryPath| {
            first.is_within(subtree) || std::iter::successors(Some(subtree.clone()), parent).any(|path| reaches(&path))
        };
        self.subtrees.as_ref().is_none_or(|subtrees| subtrees.iter().any(holds))
    }

    fn take_leaf(&mut self, leaf: &Pending, text: &[u8], out: &mut Vec<Entry>) -> Result<()> {
        let mut entries = Vec::new();
        parse_lines::<Entry>(text, "manifest leaf", &mut entries)?;
        if entries.first().is_none_or(|entry| entry.path != leaf.node.first) {
            return Err(misplaced(&leaf.node));
        }
        for entry in entries {
            if self.subtrees.as_ref().is_none_or(|subtrees| is_wanted(&entry.path, subtrees)) {
                self.sequence.take(&entry)?;
                self.counts.add(&entry);
                out.push(entry);
            }
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<()> {
        let Manifest { root, counts: receipt, .. } = self.manifest;
        // What vanished has no entry.
        let found = Counts { vanished: root.counts.vanished, ..self.counts };
        if self.subtrees.is_some() || (found == root.counts && root.counts == *receipt) {
            return Ok(());
        }
        Err(Error::integrity(format!(
            "the manifest holds {} files of {} bytes, its root says {} of {}, the receipt {} of {}",
            found.files, found.bytes, root.counts.files, root.counts.bytes, receipt.files, receipt.bytes
        )))
    }
}

fn misplaced(node: &NodeRef) -> Error {
    Error::integrity(format!("the manifest node of {:?} starts with another path", node.first))
}

fn parent(path: &EntryPath) -> Option<EntryPath> {
    path.split_last().map(|(parent, _)| parent)
}

/// At or below one of the subtrees, or a directory above one.
fn is_wanted(path: &EntryPath, subtrees: &[EntryPath]) -> bool {
    subtrees.iter().any(|subtree| path.is_within(subtree) || subtree.is_within(path))
}
