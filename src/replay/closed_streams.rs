//! Streams that were closed: their clients are told so when they resume.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::RandomState},
    fmt,
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many closed streams a layer remembers. With the tables that hold them they take 2 MiB at the most.
pub(crate) const CLOSED_STREAMS: usize = 16_384;

/// A bounded memory of closed streams.
///
/// It holds hashes, keyed at random, of a stream's owner, target and name together: with any other owner or target the name is
/// one that was never given. When it is full, the oldest entry of the owner that has the most makes room, so that no owner can
/// make the layer forget the closed streams of the others.
#[derive(Default)]
pub(crate) struct ClosedStreams {
    hasher: RandomState,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    all: HashSet<u64>,
    /// Those of each owner, the oldest first.
    by_owner: HashMap<u64, VecDeque<u64>>,
}

impl ClosedStreams {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, owner: &impl Hash, name: &impl Hash) {
        self.insert_within(CLOSED_STREAMS, owner, name);
    }

    fn insert_within(&self, most: usize, owner: &impl Hash, name: &impl Hash) {
        let owner = self.hasher.hash_one(owner);
        let entry = self.hasher.hash_one((owner, name));
        let mut entries = self.lock();
        if !entries.all.insert(entry) {
            return;
        }
        entries.by_owner.entry(owner).or_default().push_back(entry);
        if entries.all.len() > most {
            entries.forget_one();
        }
    }

    pub(crate) fn contains(&self, owner: &impl Hash, name: &impl Hash) -> bool {
        let owner = self.hasher.hash_one(owner);
        let entry = self.hasher.hash_one((owner, name));
        self.lock().all.contains(&entry)
    }
}

impl Entries {
    /// Looks at all owners. It happens once for each stream that is closed while the memory is full.
    fn forget_one(&mut self) {
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
    fn owner_with_the_most_makes_room_with_its_oldest() {
        let closed = ClosedStreams::default();
        let close = |owner: &str, name: u32| closed.insert_within(10, &owner, &name);
        for name in 0..3 {
            close("ann", name);
        }
        for name in 0..1000 {
            close("bob", name);
            // To close a stream twice makes no difference.
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
        // Many owners with one stream each push out one of somebody's, and not more than there is room for.
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
