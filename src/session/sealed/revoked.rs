//! Tokens that were removed before they expire.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use super::token::Nonce;

/// The time when the token was created, in seconds, and its nonce. The smallest entry is the one that expires first.
pub(super) type Entry = (u64, Nonce);

/// A bounded set of removed tokens. An entry is only evicted to make room, the oldest first, and never because of the time: a clock that is
/// wrong for a while must not make a removed token valid again.
#[derive(Default)]
pub(super) struct Revoked(RwLock<BTreeSet<Entry>>);

impl Revoked {
    pub(super) fn contains(&self, entry: &Entry) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(entry)
    }

    /// Adds an entry. Returns false if the set already has it.
    pub(super) fn insert(&self, entry: Entry, max: usize) -> bool {
        let mut revoked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if revoked.contains(&entry) {
            return false;
        }
        // Evict before inserting, so that the new entry stays even if it is the oldest.
        while revoked.len() >= max {
            revoked.pop_first();
        }
        revoked.insert(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_entry_is_evicted_but_never_the_new_one() {
        let revoked = Revoked::default();
        let entry = |created: u64| (created, [created as u8; 24]);
        for created in [30, 10, 20] {
            assert!(revoked.insert(entry(created), 3));
        }
        assert!(!revoked.insert(entry(10), 3));
        assert!(revoked.insert(entry(5), 3));
        let known = [5, 10, 20, 30].map(|created| revoked.contains(&entry(created)));
        assert_eq!(known, [true, false, true, true]);
        assert!(revoked.insert(entry(40), 3));
        let known = [5, 20, 30, 40].map(|created| revoked.contains(&entry(created)));
        assert_eq!(known, [false, true, true, true]);
    }
}
