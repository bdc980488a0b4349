//! Remembers the closed streams, because a client that resumes one gets another response than a client that resumes an unknown stream.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::RandomState},
    fmt,
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of closed streams that a layer remembers. They take at most 2 MiB with their tables.
pub(crate) const CLOSED_STREAMS: usize = 16_384;

/// A bounded set of closed streams.
///
/// An entry is a hash, with a random key, of the owner, the session, the key and the id of a stream. For another owner or key the id is
/// unknown, as if it had never existed. When the set is full, it drops the oldest entry of the owner with the most entries, so that no
/// owner can displace the closed streams of others.
#[derive(Default)]
pub(crate) struct ClosedStreams {
    hasher: RandomState,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    all: HashSet<u64>,
    /// The entries of each owner, the oldest first.
    by_owner: HashMap<u64, VecDeque<u64>>,
}

impl ClosedStreams {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, owner: &impl Hash, name: &impl Hash) {
        self.insert_within(CLOSED_STREAMS, owner, name);
    }

    fn insert_within(&self, max: usize, owner: &impl Hash, name: &impl Hash) {
        let owner = self.hasher.hash_one(owner);
        let entry = self.hasher.hash_one((owner, name));
        let mut entries = self.lock();
        if !entries.all.insert(entry) {
            return;
        }
        entries.by_owner.entry(owner).or_default().push_back(entry);
        if entries.all.len() > max {
            entries.drop_oldest();
        }
    }

    pub(crate) fn contains(&self, owner: &impl Hash, name: &impl Hash) -> bool {
        let owner = self.hasher.hash_one(owner);
        let entry = self.hasher.hash_one((owner, name));
        self.lock().all.contains(&entry)
    }
}

impl Entries {
    /// Drops the oldest entry of the owner with the most entries. It iterates over all owners, once for each stream that is closed while
    /// the set is full.
    fn drop_oldest(&mut self) {
        let owners = self.by_owner.iter();
        let Some(owner) = owners.max_by_key(|(_, entries)| entries.len()) else {
            return;
        };
        let owner = *owner.0;
        if let Some(entries) = self.by_owner.get_mut(&owner) {
            if let Some(oldest) = entries.pop_front() {
                self.all.remove(&oldest);
            }
            if entries.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }
}

impl fmt::Debug for ClosedStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosedStreams")
            .field("streams", &self.lock().all.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_closed_for_its_owner_only() {
        let closed = ClosedStreams::default();
        closed.insert(&"ann", &("/a", 1));
        assert!(closed.contains(&"ann", &("/a", 1)));
        for (owner, name) in [("bob", ("/a", 1)), ("ann", ("/b", 1)), ("ann", ("/a", 2))] {
            assert!(!closed.contains(&owner, &name), "{owner} {name:?}");
        }
    }

    #[test]
    fn full_set_drops_the_oldest_entry_of_the_owner_with_the_most() {
        let closed = ClosedStreams::default();
        let close = |owner: &str, name: u32| closed.insert_within(10, &owner, &name);
        for name in 0..3 {
            close("ann", name);
        }
        for name in 0..1000 {
            close("bob", name);
            // Closing a stream twice has no effect.
            close("bob", name);
        }
        let known = |owner: &str, names: std::ops::Range<u32>| {
            names
                .filter(|name| closed.contains(&owner, name))
                .collect::<Vec<_>>()
        };
        assert_eq!(known("ann", 0..3), [0, 1, 2]);
        assert_eq!(known("bob", 0..1000), (993..1000).collect::<Vec<_>>());
        assert_eq!(format!("{closed:?}"), "ClosedStreams { streams: 10 }");
        // Owners with one entry each: the set stays within its limit.
        for owner in 0..100 {
            close(&owner.to_string(), 0);
        }
        assert_eq!(closed.lock().all.len(), 10);
        assert_eq!(
            closed
                .lock()
                .by_owner
                .values()
                .map(VecDeque::len)
                .sum::<usize>(),
            10
        );
    }
}
