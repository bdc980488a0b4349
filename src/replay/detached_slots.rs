//! The number of streams that continue without a client, limited for each owner and for the layer.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::Instant;

use super::quota::Quota;
use crate::log::SharedLog;

/// The slots of all detached streams of a layer. When a newly detached stream exceeds a limit, the oldest detached stream of the same
/// owner ends.
pub(crate) struct Detached<K> {
    streams: Mutex<Streams<K>>,
    max: usize,
    max_per_owner: usize,
}

struct Streams<K> {
    /// The slots of each owner, the oldest first.
    by_owner: HashMap<K, BTreeMap<u64, Entry>>,
    total: usize,
    /// The number of slots that were ever taken.
    entered: u64,
}

struct Entry {
    log: Arc<SharedLog>,
    is_ended: Arc<AtomicBool>,
}

/// The slot of one detached stream. Dropping it releases the slot.
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
            entered: 0,
        };
        Self {
            streams: Mutex::new(streams),
            max: quota.detached,
            max_per_owner: quota.detached_per_owner,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams<K>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot for a stream that has had no client since `since`. If that exceeds a limit, the oldest stream of the owner has to
    /// end: its writer is woken.
    pub(crate) fn enter(
        self: &Arc<Self>,
        owner: K,
        log: &Arc<SharedLog>,
        since: Instant,
    ) -> DetachedSlot<K> {
        let is_ended = Arc::<AtomicBool>::default();
        let entry = Entry {
            log: Arc::clone(log),
            is_ended: Arc::clone(&is_ended),
        };
        let mut ended = Vec::new();
        let mut streams = self.lock();
        streams.entered += 1;
        let number = streams.entered;
        let mut total = streams.total + 1;
        let own = streams.by_owner.entry(owner.clone()).or_default();
        own.insert(number, entry);
        while own.len() > self.max_per_owner || total > self.max {
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
            entry.log.wake_writer();
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
    /// Whether this slot is for the detached period that began at `since`.
    pub(crate) fn is_since(&self, since: Instant) -> bool {
        self.since == since
    }

    /// Whether the stream has to end: a newer stream has taken the slot.
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
