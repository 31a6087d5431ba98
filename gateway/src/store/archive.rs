//! The archived part of a chain in the store.

use crate::merkle::Frontier;

/// Number of events that one transaction examines for deletion.
pub(super) const PRUNED_PER_STEP: i64 = 5000;

/// Result of the deletion of archived events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of removed events.
    pub removed: u64,
    /// Number of archived events that remain, because the store needs them.
    pub kept: u64,
}

/// Writes the nodes of a tree as hex digits.
pub(super) fn tree_text(tree: &Frontier) -> String {
    tree.nodes().iter().map(hex::encode).collect()
}

/// Reads the nodes of a tree; an empty tree if they are damaged, which no event continues.
pub(super) fn read_tree(size: u64, text: &str) -> Frontier {
    let bytes = hex::decode(text).unwrap_or_default();
    let nodes = bytes.as_chunks().0.to_vec();
    Frontier::restore(size, nodes).unwrap_or_default()
}
