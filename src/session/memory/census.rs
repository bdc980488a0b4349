//! The number of sessions of each owner, over all shards.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use super::super::Owner;

/// The limits on the number of sessions.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    pub(super) total: usize,
    pub(super) per_owner: usize,
}

/// The limit that another session of an owner would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Owner,
    Store,
}

/// Counts the sessions of each owner.
#[derive(Default)]
pub(super) struct Census {
    counts: HashMap<Owner, usize>,
    /// The same counts in order, the largest first.
    by_count: BTreeSet<(Reverse<usize>, Owner)>,
    total: usize,
}

impl Census {
    #[cfg(test)]
    pub(super) fn total(&self) -> usize {
        self.total
    }

    fn count(&self, owner: Owner) -> usize {
        self.counts.get(&owner).copied().unwrap_or(0)
    }

    /// Adds one to the count of the owner.
    ///
    /// # Errors
    /// The limit that this would exceed. The count is then unchanged.
    pub(super) fn reserve(&mut self, owner: Owner, capacity: Capacity) -> Result<(), Full> {
        let count = self.count(owner);
        if count >= capacity.per_owner {
            return Err(Full::Owner);
        }
        if self.total >= capacity.total {
            return Err(Full::Store);
        }
        self.set(owner, count, count + 1);
        Ok(())
    }

    /// Subtracts one from the count of the owner.
    pub(super) fn release(&mut self, owner: Owner) {
        let count = self.count(owner);
        if count > 0 {
            self.set(owner, count, count - 1);
        }
    }

    /// The owners with at least two sessions more than this owner, the largest first. If one of them loses a session and this owner gets
    /// one, the former still has at least as many.
    pub(super) fn larger_than(&self, owner: Owner) -> impl Iterator<Item = Owner> {
        let least = self.count(owner) + 2;
        let largest = self.by_count.iter();
        let larger = largest.take_while(move |(Reverse(count), _)| *count >= least);
        larger.map(|(_, owner)| *owner)
    }

    fn set(&mut self, owner: Owner, before: usize, now: usize) {
        self.by_count.remove(&(Reverse(before), owner));
        if now == 0 {
            self.counts.remove(&owner);
        } else {
            self.counts.insert(owner, now);
            self.by_count.insert((Reverse(now), owner));
        }
        self.total = self.total + now - before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_of_an_owner_without_sessions_changes_nothing() {
        let mut census = Census::default();
        let capacity = Capacity {
            total: 2,
            per_owner: 2,
        };
        census.reserve(Owner::ANONYMOUS, capacity).unwrap();
        census.release(Owner::from_bytes([1; 32]));
        assert_eq!(census.total(), 1);
        census.release(Owner::ANONYMOUS);
        census.release(Owner::ANONYMOUS);
        assert_eq!(census.total(), 0);
    }
}
