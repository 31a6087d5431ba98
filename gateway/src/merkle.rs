//! Merkle trees over the events of a chain, as in Certificate Transparency (RFC 9162, section 2.1).
//!
//! A leaf is the SHA-256 of `0x00` and the bytes of an event's hash; an inner node that of `0x01`
//! and its children. All functions read the leaves once, in order, and keep one hash for each level
//! of the tree: a tree of a million events takes 640 bytes.

use std::collections::HashMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Returns the hash of a leaf.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// Returns the hash of an inner node.
fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A subtree that a proof needs, by the range of its leaves.
pub type Subtree = Range<u64>;

/// The state of a tree: the roots of its complete subtrees, the largest first. It is all that is
/// needed to append leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Restores the state of a tree with `size` leaves; `None` if the number of nodes is wrong.
    pub fn restore(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (u64::from(size.count_ones()) == u64::try_from(nodes.len()).ok()?).then_some(Self { size, nodes })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, the largest first.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_with(leaf, |_, _| {});
    }

    /// Appends a leaf, and passes the nodes that it completes to `each`.
    fn push_with(&mut self, leaf: Hash, mut each: impl FnMut(Subtree, &Hash)) {
        let end = self.size.saturating_add(1);
        let (mut node, mut start) = (leaf, self.size);
        each(start..end, &node);
        for level in 0..self.size.trailing_ones() {
            let Some(left) = self.nodes.pop() else { break };
            node = node_hash(&left, &node);
            start = start.saturating_sub(1 << level);
            each(start..end, &node);
        }
        self.nodes.push(node);
        self.size = end;
    }

    /// The complete subtrees with their roots, the largest first.
    fn subtrees(&self) -> impl DoubleEndedIterator<Item = (Subtree, &Hash)> {
        let size = self.size;
        let bits = (0..u64::BITS).rev().filter(move |bit| size & (1 << bit) != 0);
        let ranges: Vec<Subtree> = bits
            .scan(0, |start: &mut u64, bit| {
                let range = *start..start.saturating_add(1 << bit);
                *start = range.end;
                Some(range)
            })
            .collect();
        ranges.into_iter().zip(&self.nodes)
    }

    /// The root of the leaves from `start` to the end, if `start` begins a complete subtree.
    fn root_from(&self, start: u64) -> Option<Hash> {
        let mut root = None;
        for (range, node) in self.subtrees().rev() {
            root = Some(root.map_or(*node, |right| node_hash(node, &right)));
            if range.start == start {
                return root;
            }
        }
        None
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        self.root_from(0).unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1).saturating_sub(size.saturating_sub(1).leading_zeros())
}

/// Returns the subtrees whose roots prove that the leaf `index` is in a tree of `size` leaves,
/// lowest first; empty if `index` is not below `size`.
pub fn inclusion_path(index: u64, size: u64) -> Vec<Subtree> {
    let mut path = Vec::new();
    let Range { mut start, mut end } = 0..size;
    while index < end && end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(middle..end);
            end = middle;
        } else {
            path.push(start..middle);
            start = middle;
        }
    }
    path.reverse();
    path
}

/// Returns the subtrees whose roots prove that a tree of `size` leaves begins with one of `earlier`
/// leaves; empty for equal sizes and an empty earlier tree.
pub fn consistency_path(earlier: u64, size: u64) -> Vec<Subtree> {
    let mut path = Vec::new();
    if earlier == 0 || earlier >= size {
        return path;
    }
    let Range { mut start, mut end } = 0..size;
    while earlier < end {
        let middle = start + split(end - start);
        if earlier <= middle {
            path.push(middle..end);
            end = middle;
        } else {
            path.push(start..middle);
            start = middle;
        }
    }
    if start > 0 {
        path.push(start..end);
    }
    path.reverse();
    path
}

/// Collects the roots of subtrees while a tree grows.
#[derive(Clone, Debug)]
pub struct Collector {
    tree: Frontier,
    wanted: HashMap<Subtree, Option<Hash>>,
}

impl Collector {
    /// Continues `tree`. Subtrees that end before its end are found only if they are among its
    /// [`nodes`](Frontier::nodes).
    pub fn new(tree: Frontier, wanted: impl IntoIterator<Item = Subtree>) -> Self {
        let mut wanted: HashMap<_, _> = wanted.into_iter().map(|range| (range, None)).collect();
        for (range, node) in tree.subtrees() {
            if let Some(found) = wanted.get_mut(&range) {
                *found = Some(*node);
            }
        }
        Self { tree, wanted }
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let wanted = &mut self.wanted;
        self.tree.push_with(leaf, |range, node| {
            if let Some(found) = wanted.get_mut(&range) {
                *found = Some(*node);
            }
        });
    }

    /// The tree so far.
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }

    /// Returns the roots of `path` in a tree that ends here; `None` if one was not found.
    pub fn roots(&self, path: &[Subtree]) -> Option<Vec<Hash>> {
        let root = |range: &Subtree| match self.wanted.get(range).copied().flatten() {
            None if range.end == self.tree.size => self.tree.root_from(range.start),
            found => found,
        };
        path.iter().map(root).collect()
    }
}

/// Returns the root of a tree of `size` leaves in which `proof` places `leaf` at `index` (RFC 9162,
/// section 2.1.3.2); `None` if the proof does not have the form of such a proof.
pub fn root_of_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    let (mut at, mut last) = (index, size.checked_sub(1)?);
    if at > last {
        return None;
    }
    let mut root = *leaf;
    for node in proof {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node_hash(node, &root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            root = node_hash(&root, node);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// Returns whether `proof` proves that a tree of `size` leaves with `root` begins with the tree of
/// `earlier` leaves with `earlier_root` (RFC 9162, section 2.1.4.2).
pub fn is_consistent(earlier: u64, earlier_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if earlier == 0 || earlier >= size {
        return earlier == size && earlier_root == root && proof.is_empty();
    }
    // The RFC omits the first node if it is the earlier root.
    let first = earlier.is_power_of_two().then_some(earlier_root);
    let mut nodes = first.into_iter().chain(proof);
    let (mut at, mut last) = (earlier - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let Some(seed) = nodes.next() else {
        return false;
    };
    let (mut old, mut new) = (*seed, *seed);
    for node in nodes {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node_hash(node, &old);
            new = node_hash(node, &new);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, node);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old == *earlier_root && new == *root
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;

    use super::*;

    /// The tree of the tests of Certificate Transparency: its leaves, and its roots by size.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn tree_of(leaves: &[Hash]) -> Frontier {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|at| leaf_hash(&at.to_be_bytes())).collect()
    }

    /// The roots of `path` in the tree of `leaves`, after continuing the tree of the first `kept`.
    fn prove(leaves: &[Hash], kept: usize, path: &[Subtree]) -> Option<Vec<Hash>> {
        let mut collector = Collector::new(tree_of(&leaves[..kept]), path.iter().cloned());
        leaves[kept..].iter().for_each(|leaf| collector.push(*leaf));
        collector.roots(path)
    }

    #[test]
    fn roots_equal_those_of_certificate_transparency() {
        assert_eq!(
            hex::encode(Frontier::default().root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let leaves: Vec<_> = LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect();
        for (size, root) in (1..).zip(ROOTS) {
            let tree = tree_of(&leaves[..size]);
            assert_eq!(hex::encode(tree.root()), root, "{size}");
            assert_eq!(Frontier::restore(tree.size(), tree.nodes().to_vec()), Some(tree.clone()));
            assert_eq!(Frontier::restore(tree.size(), [tree.nodes(), &[[0; 32]]].concat()), None, "{size}");
        }
    }

    /// The figures of RFC 9162, section 2.1.5: a tree of seven leaves.
    #[test]
    fn paths_equal_the_examples_of_rfc_9162() {
        assert_eq!(inclusion_path(0, 7), [1..2, 2..4, 4..7]);
        assert_eq!(inclusion_path(3, 7), [2..3, 0..2, 4..7]);
        assert_eq!(inclusion_path(4, 7), [5..6, 6..7, 0..4]);
        assert_eq!(inclusion_path(6, 7), [4..6, 0..4]);
        assert_eq!(consistency_path(3, 7), [2..3, 3..4, 0..2, 4..7]);
        assert_eq!(consistency_path(4, 7), vec![4..7]);
        assert_eq!(consistency_path(6, 7), [4..6, 6..7, 0..4]);
    }

    #[test]
    fn proofs_equal_those_of_ct_merkle_and_verify() {
        for size in 1..=33_u64 {
            let leaves = leaves(size);
            let mut reference = MemoryBackedTree::<Sha256, Vec<u8>>::new();
            (0..size).for_each(|at| reference.push(at.to_be_bytes().to_vec()));
            let root = tree_of(&leaves).root();
            assert_eq!(reference.root().as_bytes().as_slice(), root);
            for index in 0..size {
                let path = inclusion_path(index, size);
                let proof = prove(&leaves, 0, &path).unwrap();
                let expected = reference.prove_inclusion(usize::try_from(index).unwrap());
                assert_eq!(expected.as_bytes(), proof.concat(), "{index} of {size}");
                let leaf = &leaves[usize::try_from(index).unwrap()];
                assert_eq!(root_of_inclusion(leaf, index, size, &proof), Some(root));
            }
            for earlier in 1..size {
                let path = consistency_path(earlier, size);
                let proof = prove(&leaves, 0, &path).unwrap();
                let expected = reference.prove_consistency(usize::try_from(size - earlier).unwrap());
                assert_eq!(expected.as_bytes(), proof.concat(), "{earlier} in {size}");
                let old = tree_of(&leaves[..usize::try_from(earlier).unwrap()]).root();
                assert!(is_consistent(earlier, &old, size, &root, &proof), "{earlier} in {size}");
            }
        }
    }

    /// After pruning, the leaves of the first events are gone; the frontier remains.
    #[test]
    fn proofs_continue_from_a_frontier() {
        let leaves = leaves(21);
        for kept in 0..=21_usize {
            for index in kept as u64..21 {
                let path = inclusion_path(index, 21);
                assert_eq!(prove(&leaves, kept, &path), prove(&leaves, 0, &path), "{index} after {kept}");
            }
            for earlier in kept.max(1) as u64..21 {
                let path = consistency_path(earlier, 21);
                assert_eq!(prove(&leaves, kept, &path), prove(&leaves, 0, &path), "{earlier} after {kept}");
            }
        }
        assert_eq!(prove(&leaves, 3, &inclusion_path(0, 21)), None, "a pruned leaf");
    }

    #[test]
    fn rejects_changed_proofs() {
        for size in 2..=17_u64 {
            let leaves = leaves(size);
            let root = tree_of(&leaves).root();
            for index in 0..size {
                let leaf = &leaves[usize::try_from(index).unwrap()];
                let proof = prove(&leaves, 0, &inclusion_path(index, size)).unwrap();
                let verifies = |leaf: &Hash, index, size, proof: &[Hash]| {
                    root_of_inclusion(leaf, index, size, proof) == Some(root)
                };
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at][31] ^= 1;
                    assert!(!verifies(leaf, index, size, &changed));
                    changed.remove(at);
                    assert!(!verifies(leaf, index, size, &changed));
                }
                assert!(!verifies(leaf, index, size, &[proof.clone(), vec![root]].concat()));
                assert!(!verifies(&root, index, size, &proof));
                assert!(!verifies(leaf, index ^ 1, size, &proof));
                assert!(!verifies(leaf, size, size, &proof));
                assert!(!verifies(leaf, index, 0, &proof));
            }
            for earlier in 1..size {
                let old = tree_of(&leaves[..usize::try_from(earlier).unwrap()]).root();
                let proof = prove(&leaves, 0, &consistency_path(earlier, size)).unwrap();
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at][0] ^= 1;
                    assert!(!is_consistent(earlier, &old, size, &root, &changed));
                    changed.remove(at);
                    assert!(!is_consistent(earlier, &old, size, &root, &changed));
                }
                assert!(!is_consistent(earlier, &root, size, &root, &proof), "another earlier root");
                assert!(!is_consistent(earlier, &old, size, &old, &proof), "another root");
                assert!(!is_consistent(size, &root, earlier, &old, &proof), "the tree shrank");
                assert!(!is_consistent(0, &old, size, &root, &proof), "an empty tree proves nothing");
            }
            assert!(is_consistent(size, &root, size, &root, &[]));
            assert!(!is_consistent(size, &leaves[0], size, &root, &[]));
        }
    }
}
