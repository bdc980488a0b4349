//! The tokens that are good no more, although they have not expired.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use super::token::Nonce;

/// When the token was made, in seconds, and which one it is. So the first of them is the one that expires first.
pub(super) type Entry = (u64, Nonce);

/// Nothing leaves it because of the time, only to make room: a clock that is wrong for a while revives nothing, and what has
/// expired is the first to go.
#[derive(Default)]
pub(super) struct Revoked(RwLock<BTreeSet<Entry>>);

impl Revoked {
    pub(super) fn contains(&self, entry: &Entry) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(entry)
    }

    /// Whether it is new here.
    pub(super) fn insert(&self, entry: Entry, most: usize) -> bool {
        let mut revoked = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if revoked.contains(&entry) {
            return false;
        }
        // First: the new one stays, even if it expires before all others.
        while revoked.len() >= most {
            revoked.pop_first();
        }
        revoked.insert(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_first_makes_room_but_the_new_one_stays() {
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
