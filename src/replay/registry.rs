//! The recorded streams of a layer by their id, and the memory of their logs.

mod eviction;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use crate::{
    log::SharedLog,
    replay::{Detached, Quota, quota::Account},
    stream_id::StreamId,
};

/// A stream in the registry.
pub(crate) trait Registered {
    /// The owner and the session of a stream.
    type StreamOwner: Clone + Eq + Hash;
    /// The owner. The memory of the stream counts against the limit of this owner.
    type Owner: Clone + Eq + Hash;

    fn stream_owner(&self) -> &Self::StreamOwner;
    fn owner(&self) -> &Self::Owner;
    /// The [account](LogRegistry::account_of) of the owner.
    fn account(&self) -> &Arc<Account>;
    fn log(&self) -> &SharedLog;
}

/// Finds streams by their id, and evicts events when the logs exceed their limits.
///
/// When a stream is written to and a limit is exceeded, events are evicted in this order:
///
/// 1. If the owner of the stream is above the limit of one owner: from the owner's logs that have no client, the least recently written
///    first.
/// 2. If all logs together are above the limit: from the logs without a client of owners that hold more than this owner. The largest
///    owner is first, and each loses at most what it holds more than this owner. An owner that holds no more than an equal share therefore
///    loses nothing to others.
/// 3. From the owner's logs that have no client again, if that was not enough.
/// 4. From the owner's logs with clients, events that the clients have read: the newest stream first, and only from streams that exceed
///    the limit if the older ones are counted first. The log of a connected client therefore never makes room for a newer stream.
///
/// If that is not enough, [`account`](Self::account) returns true, and the writer waits until its clients have read everything.
pub(crate) struct LogRegistry<S: Registered> {
    streams: Mutex<Streams<S>>,
    /// The memory, in bytes, of all logs. Below 0 for a moment if written events are evicted before they are counted.
    bytes: AtomicI64,
    /// The same sum, but each owner counts at most up to its limit: so clients that do not read take no memory from other owners.
    bytes_within_limits: AtomicI64,
    quota: Quota,
    detached: Arc<Detached<S::Owner>>,
}

struct Streams<S: Registered> {
    by_id: HashMap<StreamId, Entry<S>>,
    by_stream_owner: HashMap<S::StreamOwner, HashSet<StreamId>>,
    by_owner: HashMap<S::Owner, OwnerStreams<S>>,
    /// The number of streams that were ever added.
    added: u64,
}

struct Entry<S> {
    stream: Arc<S>,
    /// The sequence number of the stream in the registry.
    number: u64,
}

/// The streams of one owner.
struct OwnerStreams<S> {
    account: Arc<Account>,
    /// All streams in the order in which eviction checks them, each with its number of writes at the last check. Some of them may
    /// have left the registry.
    eviction_queue: VecDeque<(StreamId, u64)>,
    /// All streams, the oldest first.
    by_number: BTreeMap<u64, Arc<S>>,
}

impl<S> OwnerStreams<S> {
    fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            eviction_queue: VecDeque::new(),
            by_number: BTreeMap::new(),
        }
    }
}

impl<S: Registered> LogRegistry<S> {
    pub(crate) fn new(quota: Quota) -> Self {
        let streams = Streams {
            by_id: HashMap::new(),
            by_stream_owner: HashMap::new(),
            by_owner: HashMap::new(),
            added: 0,
        };
        Self {
            streams: Mutex::new(streams),
            bytes: AtomicI64::new(0),
            bytes_within_limits: AtomicI64::new(0),
            quota,
            detached: Arc::new(Detached::new(&quota)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams<S>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams that continue without a client.
    pub(crate) fn detached(&self) -> &Arc<Detached<S::Owner>> {
        &self.detached
    }

    /// The account of an owner, for a new stream.
    pub(crate) fn account_of(&self, owner: &S::Owner) -> Arc<Account> {
        let mut streams = self.lock();
        if let Some(owned) = streams.by_owner.get(owner) {
            return Arc::clone(&owned.account);
        }
        if streams.by_owner.len() > 64 && streams.by_owner.len() > 2 * streams.by_id.len() {
            // Most owners have no stream any more. An account that a reader or a new stream still holds stays.
            let is_used = |owned: &OwnerStreams<S>| {
                !owned.by_number.is_empty() || Arc::strong_count(&owned.account) > 1
            };
            streams.by_owner.retain(|_, owned| is_used(owned));
        }
        let account = Arc::<Account>::default();
        let owned = OwnerStreams::new(Arc::clone(&account));
        streams.by_owner.insert(owner.clone(), owned);
        account
    }

    pub(crate) fn insert(&self, id: StreamId, stream: Arc<S>) {
        let mut streams = self.lock();
        streams.added += 1;
        let number = streams.added;
        let stream_owner = stream.stream_owner().clone();
        let ids = streams.by_stream_owner.entry(stream_owner).or_default();
        ids.insert(id);
        let owned = streams.by_owner.entry(stream.owner().clone());
        let owned = owned.or_insert_with(|| OwnerStreams::new(Arc::clone(stream.account())));
        owned.eviction_queue.push_back((id, 0));
        owned.by_number.insert(number, Arc::clone(&stream));
        streams.by_id.insert(id, Entry { stream, number });
    }

    pub(crate) fn find(&self, id: StreamId) -> Option<Arc<S>> {
        let streams = self.lock();
        let entry = streams.by_id.get(&id)?;
        Some(Arc::clone(&entry.stream))
    }

    /// All streams of an owner and session.
    pub(crate) fn all_of(&self, stream_owner: &S::StreamOwner) -> Vec<Arc<S>> {
        let streams = self.lock();
        let ids = streams.by_stream_owner.get(stream_owner);
        let entries = ids
            .into_iter()
            .flatten()
            .filter_map(|id| streams.by_id.get(id));
        entries.map(|entry| Arc::clone(&entry.stream)).collect()
    }

    /// All streams for which `matches` returns true.
    pub(crate) fn all_where(&self, matches: impl Fn(&S) -> bool) -> Vec<Arc<S>> {
        let streams = self.lock();
        let all = streams.by_id.values().map(|entry| &entry.stream);
        all.filter(|stream| matches(stream))
            .map(Arc::clone)
            .collect()
    }

    /// Removes a stream. No client finds it after this.
    pub(crate) fn remove(&self, id: StreamId) {
        let mut streams = self.lock();
        let Some(Entry { stream, number }) = streams.by_id.remove(&id) else {
            return;
        };
        if let Some(ids) = streams.by_stream_owner.get_mut(stream.stream_owner()) {
            ids.remove(&id);
            if ids.is_empty() {
                streams.by_stream_owner.remove(stream.stream_owner());
            }
        }
        let Streams {
            by_id, by_owner, ..
        } = &mut *streams;
        if let Some(owned) = by_owner.get_mut(stream.owner()) {
            owned.by_number.remove(&number);
            // The stream leaves the queue at its next check, or when most of the queue is such streams.
            let queue = &mut owned.eviction_queue;
            if queue.len() > 64 && queue.len() > 2 * owned.by_number.len() {
                queue.retain(|(id, _)| by_id.contains_key(id));
            }
        }
        drop(streams);
    }

    /// [Removes](Self::remove) a stream and stops counting its memory. The writer must have stopped.
    pub(crate) fn retire(&self, id: StreamId, stream: &S) {
        self.remove(id);
        self.account(stream, (0, stream.log().retire()));
    }

    /// Aborts and removes all streams of an owner and session.
    pub(crate) fn remove_all_of(&self, stream_owner: &S::StreamOwner) {
        let ids = self.lock().by_stream_owner.get(stream_owner).cloned();
        for id in ids.unwrap_or_default() {
            if let Some(stream) = self.find(id) {
                stream.log().abort();
            }
            self.remove(id);
        }
    }

    /// Counts a change of the memory of a log, given in bytes after and before it, and evicts events if a limit is exceeded. Returns
    /// whether a limit is still exceeded after that.
    pub(crate) fn account(&self, stream: &S, (after, before): (usize, usize)) -> bool {
        self.add(stream.account(), after as i64 - before as i64);
        if self.excess() == 0 && self.owner_excess(stream) == 0 {
            return false;
        }
        self.make_room(stream);
        self.excess() > 0 || self.owner_excess(stream) > 0
    }

    fn add(&self, account: &Account, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let within_limit = account.add(bytes, self.quota.bytes_per_owner());
        self.bytes_within_limits
            .fetch_add(within_limit, Ordering::Relaxed);
    }

    /// The memory, in bytes, of all logs.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    /// How many bytes all logs are above the limit of the layer.
    fn excess(&self) -> usize {
        let bytes = self.bytes_within_limits.load(Ordering::Relaxed);
        usize::try_from(bytes)
            .unwrap_or(0)
            .saturating_sub(self.quota.bytes)
    }

    /// How many bytes the logs of the stream's owner are above the limit of one owner.
    fn owner_excess(&self, stream: &S) -> usize {
        let most = self.quota.bytes_per_owner();
        stream.account().bytes().saturating_sub(most)
    }

    /// The number of streams.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_id.len()
    }
}

impl<S: Registered> fmt::Debug for LogRegistry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogRegistry")
            .field("streams", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests;
