//! A search over finite domains: values for variables that satisfy every clause.

/// Branches after which a search gives up.
const MAX_BRANCHES: usize = 20_000;

/// A set of cell numbers of one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells {
    words: Vec<u64>,
    length: usize,
}

impl Cells {
    /// The cells below `length` for which `holds` is true.
    pub(super) fn of(length: usize, holds: impl Fn(usize) -> bool) -> Self {
        let mut words = vec![0_u64; length.div_ceil(64)];
        for cell in (0..length).filter(|cell| holds(*cell)) {
            if let Some(word) = words.get_mut(cell / 64) {
                *word |= 1 << (cell % 64);
            }
        }
        Self { words, length }
    }

    pub(super) fn contains(&self, cell: usize) -> bool {
        self.words.get(cell / 64).is_some_and(|word| word & (1 << (cell % 64)) != 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.length).filter(|cell| self.contains(*cell))
    }

    pub(super) fn complement(&self) -> Self {
        Self::of(self.length, |cell| !self.contains(cell))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    fn is_subset(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).all(|(own, other)| own & !other == 0)
    }

    pub(super) fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(own, other)| own & other != 0)
    }

    pub(super) fn retain(&mut self, other: &Self) {
        for (own, other) in self.words.iter_mut().zip(&other.words) {
            *own &= other;
        }
    }
}

/// A variable has one of these cells.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) variable: usize,
    pub(super) cells: Cells,
}

impl Literal {
    pub(super) fn negated(&self) -> Self {
        Self { variable: self.variable, cells: self.cells.complement() }
    }
}

/// Literals, at least one of which is required.
pub(super) type Clause = Vec<Literal>;

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// A solution was accepted.
    Found,
    /// There is no solution.
    Impossible,
    /// All solutions that were tried were rejected, or the search gave up.
    Open,
}

/// Searches for domains in which any choice satisfies all clauses, until `accept` accepts one.
pub(super) fn search(
    domains: Vec<Cells>,
    clauses: &[&Clause],
    accept: &mut impl FnMut(&[Cells]) -> bool,
) -> Search {
    let mut branches = 0;
    descend(domains, clauses, accept, &mut branches)
}

fn descend(
    mut domains: Vec<Cells>,
    clauses: &[&Clause],
    accept: &mut impl FnMut(&[Cells]) -> bool,
    branches: &mut usize,
) -> Search {
    let Some(open) = propagate(&mut domains, clauses) else {
        return Search::Impossible;
    };
    let feasible = |clause: &Clause| {
        clause.iter().filter(|literal| is_feasible(&domains, literal)).cloned().collect::<Vec<_>>()
    };
    let Some(mut literals) = open.iter().map(|clause| feasible(clause)).min_by_key(Vec::len) else {
        return if accept(&domains) { Search::Found } else { Search::Open };
    };
    // The first literals lead to the simplest examples.
    let mut result = Search::Impossible;
    literals.reverse();
    while let Some(literal) = literals.pop() {
        *branches += 1;
        if *branches > MAX_BRANCHES {
            return Search::Open;
        }
        let mut narrowed = domains.clone();
        restrict(&mut narrowed, &literal);
        match descend(narrowed, &open, accept, branches) {
            Search::Found => return Search::Found,
            Search::Open => result = Search::Open,
            Search::Impossible => {}
        }
        // The other branches need not repeat these solutions.
        restrict(&mut domains, &literal.negated());
        if domains.get(literal.variable).is_none_or(Cells::is_empty) {
            break;
        }
    }
    result
}

/// Narrows the domains until nothing changes. Returns the clauses that are not yet certain; `None`
/// if one is impossible.
fn propagate<'c>(domains: &mut [Cells], clauses: &[&'c Clause]) -> Option<Vec<&'c Clause>> {
    let mut open = clauses.to_vec();
    loop {
        let mut is_narrowed = false;
        let mut is_possible = true;
        open.retain(|clause| {
            if clause.iter().any(|literal| is_certain(domains, literal)) {
                return false;
            }
            let mut feasible = clause.iter().filter(|literal| is_feasible(domains, literal));
            match (feasible.next(), feasible.next()) {
                (None, _) => is_possible = false,
                (Some(only), None) => {
                    restrict(domains, only);
                    is_narrowed = true;
                    return false;
                }
                (Some(_), Some(_)) => {}
            }
            true
        });
        if !is_possible || domains.iter().any(Cells::is_empty) {
            return None;
        }
        if !is_narrowed {
            return Some(open);
        }
    }
}

fn is_certain(domains: &[Cells], literal: &Literal) -> bool {
    domains.get(literal.variable).is_some_and(|domain| domain.is_subset(&literal.cells))
}

fn is_feasible(domains: &[Cells], literal: &Literal) -> bool {
    domains.get(literal.variable).is_some_and(|domain| domain.intersects(&literal.cells))
}

fn restrict(domains: &mut [Cells], literal: &Literal) {
    if let Some(domain) = domains.get_mut(literal.variable) {
        domain.retain(&literal.cells);
    }
}
