//! All logs of a layer: which there are, and how much they keep together.

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
    log::{SharedLog, StreamId},
    replay::{Detached, Quota, quota::Account},
};

/// What is known of a stream beside its log.
pub(crate) trait Record {
    /// Whose it is.
    type Whose: Clone + Eq + Hash;
    /// Whose share of the memory it takes.
    type Owner: Clone + Eq + Hash;

    fn whose(&self) -> &Self::Whose;
    fn owner(&self) -> &Self::Owner;
    /// The [account](LogRegistry::account_of) of its owner.
    fn account(&self) -> &Arc<Account>;
    fn channel(&self) -> &SharedLog;
}

/// Finds streams by their token, and evicts events when there is no room for all.
///
/// Whose events go when a stream is written to and there is no room:
///
/// 1. If its owner is above the owner's limit, or no larger owner has anything to evict: logs of the owner without a client, those
///    first that nothing was written to for the longest time.
/// 2. If all logs together are above the limit: the same logs of owners that hold more than this one, the largest first, and only
///    as much as they hold more. An owner that holds no more than its even part of the limit thus loses nothing to others.
/// 3. Of the owner's logs with clients, what the clients have read, the newest stream first, and only of streams that did not fit
///    when the older ones are counted first. So the log of a connected client makes no room for a new stream.
///
/// If that is not enough, [`account`](Self::account) says so, and the writer waits until its clients have read everything.
pub(crate) struct LogRegistry<R: Record> {
    shelf: Mutex<Shelf<R>>,
    /// Below 0 for a moment, where what was written is let go of before it was counted.
    bytes: AtomicI64,
    /// The same without what owners hold above their limit: clients that do not read take nothing from other owners by it.
    within_limits: AtomicI64,
    quota: Quota,
    detached: Arc<Detached<R::Owner>>,
}

struct Shelf<R: Record> {
    by_token: HashMap<StreamId, Placed<R>>,
    by_whose: HashMap<R::Whose, HashSet<StreamId>>,
    by_owner: HashMap<R::Owner, Owned<R>>,
    /// How many streams there were.
    so_far: u64,
}

struct Placed<R> {
    record: Arc<R>,
    /// Its number among all streams.
    number: u64,
}

/// The logs of one owner.
struct Owned<R> {
    account: Arc<Account>,
    /// All, each with how often it had been written to when it was put here.
    queue: VecDeque<(StreamId, u64)>,
    /// All, the oldest stream first.
    by_number: BTreeMap<u64, Arc<R>>,
}

impl<R> Owned<R> {
    fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            queue: VecDeque::new(),
            by_number: BTreeMap::new(),
        }
    }
}

impl<R: Record> LogRegistry<R> {
    /// Logs within these limits.
    pub(crate) fn new(quota: Quota) -> Self {
        let shelf = Shelf {
            by_token: HashMap::new(),
            by_whose: HashMap::new(),
            by_owner: HashMap::new(),
            so_far: 0,
        };
        Self {
            shelf: Mutex::new(shelf),
            bytes: AtomicI64::new(0),
            within_limits: AtomicI64::new(0),
            quota,
            detached: Arc::new(Detached::new(&quota)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<R>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams that live on without a client.
    pub(crate) fn detached(&self) -> &Arc<Detached<R::Owner>> {
        &self.detached
    }

    /// The account of an owner, for a stream of theirs.
    pub(crate) fn account_of(&self, owner: &R::Owner) -> Arc<Account> {
        let mut shelf = self.lock();
        if let Some(owned) = shelf.by_owner.get(owner) {
            return Arc::clone(&owned.account);
        }
        if shelf.by_owner.len() > 64 && shelf.by_owner.len() > 2 * shelf.by_token.len() {
            // Most of them have no stream any more. Where one is still read, its account is still held.
            let used = |owned: &Owned<R>| {
                !owned.by_number.is_empty() || Arc::strong_count(&owned.account) > 1
            };
            shelf.by_owner.retain(|_, owned| used(owned));
        }
        let account = Arc::<Account>::default();
        let owned = Owned::new(Arc::clone(&account));
        shelf.by_owner.insert(owner.clone(), owned);
        account
    }

    pub(crate) fn insert(&self, token: StreamId, record: Arc<R>) {
        let mut shelf = self.lock();
        shelf.so_far += 1;
        let number = shelf.so_far;
        let whose = record.whose().clone();
        shelf.by_whose.entry(whose).or_default().insert(token);
        let owned = shelf.by_owner.entry(record.owner().clone());
        let owned = owned.or_insert_with(|| Owned::new(Arc::clone(record.account())));
        owned.queue.push_back((token, 0));
        owned.by_number.insert(number, Arc::clone(&record));
        shelf.by_token.insert(token, Placed { record, number });
    }

    pub(crate) fn find(&self, token: StreamId) -> Option<Arc<R>> {
        let shelf = self.lock();
        let placed = shelf.by_token.get(&token)?;
        Some(Arc::clone(&placed.record))
    }

    /// All streams of somebody.
    pub(crate) fn all_of(&self, whose: &R::Whose) -> Vec<Arc<R>> {
        let shelf = self.lock();
        let tokens = shelf.by_whose.get(whose).into_iter().flatten();
        let records = tokens.filter_map(|token| shelf.by_token.get(token));
        records.map(|placed| Arc::clone(&placed.record)).collect()
    }

    /// The stream is known no more.
    pub(crate) fn remove(&self, token: StreamId) {
        let mut shelf = self.lock();
        let Some(Placed { record, number }) = shelf.by_token.remove(&token) else {
            return;
        };
        if let Some(tokens) = shelf.by_whose.get_mut(record.whose()) {
            tokens.remove(&token);
            if tokens.is_empty() {
                shelf.by_whose.remove(record.whose());
            }
        }
        let Shelf {
            by_token, by_owner, ..
        } = &mut *shelf;
        if let Some(owned) = by_owner.get_mut(record.owner()) {
            owned.by_number.remove(&number);
            // Its place in the queue goes when it comes to it, or when most of the queue is such places.
            let Owned {
                queue, by_number, ..
            } = owned;
            if queue.len() > 64 && queue.len() > 2 * by_number.len() {
                queue.retain(|(token, _)| by_token.contains_key(token));
            }
        }
        drop(shelf);
    }

    /// As [`remove`](Self::remove), and nothing more will be written to its log.
    pub(crate) fn retire(&self, token: StreamId, record: &R) {
        self.remove(token);
        self.account(record, (0, record.channel().retire()));
    }

    /// All streams of somebody are over, and known no more.
    pub(crate) fn remove_all_of(&self, whose: &R::Whose) {
        let tokens = self.lock().by_whose.get(whose).cloned();
        for token in tokens.unwrap_or_default() {
            if let Some(record) = self.find(token) {
                record.channel().abort();
            }
            self.remove(token);
        }
    }

    /// A log keeps so many bytes now, and kept so many before. Returns whether there is still too much after everything was
    /// evicted that could be.
    pub(crate) fn account(&self, record: &R, (now, before): (usize, usize)) -> bool {
        self.add(record.account(), now as i64 - before as i64);
        if self.excess() == 0 && self.own_excess(record) == 0 {
            return false;
        }
        self.make_room(record);
        self.excess() > 0 || self.own_excess(record) > 0
    }

    fn add(&self, account: &Account, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let within = account.add(bytes, self.quota.bytes_per_owner());
        self.within_limits.fetch_add(within, Ordering::Relaxed);
    }

    /// How many bytes all logs keep.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    fn excess(&self) -> usize {
        let within_limits = self.within_limits.load(Ordering::Relaxed);
        usize::try_from(within_limits)
            .unwrap_or(0)
            .saturating_sub(self.quota.bytes)
    }

    fn own_excess(&self, record: &R) -> usize {
        let most = self.quota.bytes_per_owner();
        record.account().bytes().saturating_sub(most)
    }

    /// How many streams there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_token.len()
    }
}

impl<R: Record> fmt::Debug for LogRegistry<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs")
            .field("streams", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests;
