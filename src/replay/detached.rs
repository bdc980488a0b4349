//! Streams that live on without a client.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use super::quota::Quota;
use crate::log::SharedLog;

/// All detached streams of a layer. Above a limit the oldest one of the owner ends whose stream came last.
pub(crate) struct Detached<K> {
    streams: Mutex<Streams<K>>,
    most: usize,
    most_per_owner: usize,
}

struct Streams<K> {
    /// Those of each owner, the one that was detached first first.
    by_owner: HashMap<K, BTreeMap<u64, Entry>>,
    total: usize,
    /// How many there were.
    so_far: u64,
}

struct Entry {
    channel: Arc<SharedLog>,
    is_ended: Arc<AtomicBool>,
}

/// The place of one detached stream, given up when this is dropped.
pub(crate) struct DetachedSlot<K: Eq + Hash> {
    detached: Arc<Detached<K>>,
    owner: K,
    number: u64,
    since: Instant,
    is_ended: Arc<AtomicBool>,
}

impl<K: Clone + Eq + Hash> Detached<K> {
    pub(super) fn new(quota: &Quota) -> Self {
        let streams = Streams {
            by_owner: HashMap::new(),
            total: 0,
            so_far: 0,
        };
        Self {
            streams: Mutex::new(streams),
            most: quota.detached,
            most_per_owner: quota.detached_per_owner,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams<K>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a stream that has been without a client since then.
    pub(crate) fn enter(
        self: &Arc<Self>,
        owner: K,
        channel: &Arc<SharedLog>,
        since: Instant,
    ) -> DetachedSlot<K> {
        let is_ended = Arc::<AtomicBool>::default();
        let entry = Entry {
            channel: Arc::clone(channel),
            is_ended: Arc::clone(&is_ended),
        };
        let mut ended = Vec::new();
        let mut streams = self.lock();
        streams.so_far += 1;
        let number = streams.so_far;
        let mut total = streams.total + 1;
        let own = streams.by_owner.entry(owner.clone()).or_default();
        own.insert(number, entry);
        while own.len() > self.most_per_owner || total > self.most {
            let Some((_, oldest)) = own.pop_first() else {
                break;
            };
            total -= 1;
            ended.push(oldest);
        }
        if own.is_empty() {
            streams.by_owner.remove(&owner);
        }
        streams.total = total;
        drop(streams);
        for entry in ended {
            entry.is_ended.store(true, Ordering::Relaxed);
            entry.channel.wake_writer();
        }
        DetachedSlot {
            detached: Arc::clone(self),
            owner,
            number,
            since,
            is_ended,
        }
    }
}

impl<K: Eq + Hash> DetachedSlot<K> {
    /// Whether the stream has been without a client since then, and not only before.
    pub(crate) fn is_since(&self, since: Instant) -> bool {
        self.since == since
    }

    /// Whether the stream is to end: there was no room for it and newer ones.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Relaxed)
    }
}

impl<K: Eq + Hash> Drop for DetachedSlot<K> {
    fn drop(&mut self) {
        let streams = self.detached.streams.lock();
        let mut streams = streams.unwrap_or_else(PoisonError::into_inner);
        let Some(own) = streams.by_owner.get_mut(&self.owner) else {
            return;
        };
        let entry = own.remove(&self.number);
        if own.is_empty() {
            streams.by_owner.remove(&self.owner);
        }
        streams.total -= usize::from(entry.is_some());
        drop(streams);
    }
}

impl<K> fmt::Debug for Detached<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").finish_non_exhaustive()
    }
}
