//! Eviction from the logs of a layer when they exceed a limit. [`LogRegistry`] documents the order.

use std::{cmp::Reverse, sync::Arc};

use super::{LogRegistry, Registered, Streams};
use crate::{log::Protected, replay::quota::Account};

impl<S: Registered> LogRegistry<S> {
    /// Evicts events because of a stream that was written to.
    pub(super) fn make_room(&self, stream: &S) {
        let owner_excess = self.owner_excess(stream);
        if owner_excess > 0 {
            self.evict_of_owner(stream, owner_excess);
        }
        if self.excess() > 0 {
            for (owner, account) in self.larger_owners(stream.account().bytes()) {
                let difference = account.bytes().saturating_sub(stream.account().bytes());
                self.evict_detached(&owner, self.excess().min(difference));
            }
        }
        let excess = self.excess();
        if excess > 0 {
            self.evict_of_owner(stream, excess);
        }
    }

    /// The owners that hold more bytes than this, the largest first.
    fn larger_owners(&self, bytes: usize) -> Vec<(S::Owner, Arc<Account>)> {
        let streams = self.lock();
        let larger = streams.by_owner.iter();
        let larger = larger.filter(|(_, owned)| owned.account.bytes() > bytes);
        let larger = larger.map(|(owner, owned)| (owner.clone(), Arc::clone(&owned.account)));
        let mut larger: Vec<_> = larger.collect();
        drop(streams);
        larger.sort_by_cached_key(|(_, account)| Reverse(account.bytes()));
        larger
    }

    /// Evicts `bytes` bytes from the logs of the stream's owner, from those without a client first.
    fn evict_of_owner(&self, stream: &S, bytes: usize) {
        let freed = self.evict_detached(stream.owner(), bytes);
        if freed < bytes {
            self.evict_read(stream, bytes - freed);
        }
    }

    /// Evicts `bytes` bytes from the logs of an owner that have no client. Returns how many bytes were freed.
    ///
    /// The order approximates least recently written (the clock algorithm): a log that was written to since the last check goes to the
    /// end of the queue once.
    fn evict_detached(&self, owner: &S::Owner, bytes: usize) -> usize {
        let mut freed = 0;
        let queued = |streams: &Streams<S>| {
            let owned = streams.by_owner.get(owner);
            owned.map_or(0, |owned| owned.eviction_queue.len())
        };
        let mut second_chances = queued(&self.lock());
        let mut checks = 2 * second_chances;
        while checks > 0 && freed < bytes {
            checks -= 1;
            let mut streams = self.lock();
            let Streams {
                by_id, by_owner, ..
            } = &mut *streams;
            let Some(owned) = by_owner.get_mut(owner) else {
                break;
            };
            let Some((id, last_writes)) = owned.eviction_queue.pop_front() else {
                break;
            };
            let Some(entry) = by_id.get(&id) else {
                continue;
            };
            let stream = Arc::clone(&entry.stream);
            drop(streams);
            let writes = stream.log().write_count();
            if let Some(owned) = self.lock().by_owner.get_mut(owner) {
                owned.eviction_queue.push_back((id, writes));
            }
            if writes != last_writes && second_chances > 0 {
                second_chances -= 1;
                continue;
            }
            let evicted = stream.log().evict(bytes - freed, Protected::Connected);
            self.add(stream.account(), -(evicted as i64));
            freed += evicted;
        }
        freed
    }

    /// Evicts `bytes` bytes of events that clients have read, from streams of the stream's owner.
    ///
    /// Streams are counted from the oldest. Events are evicted from the streams beyond the limit, the newest first.
    fn evict_read(&self, stream: &S, bytes: usize) {
        let streams = self.lock();
        let owned = streams.by_owner.get(stream.owner());
        let owned = owned.into_iter().flat_map(|owned| owned.by_number.values());
        let owned: Vec<_> = owned.cloned().collect();
        drop(streams);
        let limit = stream.account().bytes().saturating_sub(bytes);
        let mut sum = 0;
        // For each stream, by how many bytes it and all older ones exceed the limit.
        let excesses = owned.iter().map(|other| {
            sum += other.log().memory();
            sum.saturating_sub(limit)
        });
        let excesses: Vec<_> = excesses.collect();
        let mut freed = 0;
        for (other, excess) in owned.iter().zip(excesses).rev() {
            let excess = excess.min(bytes.saturating_sub(freed));
            if excess == 0 {
                break;
            }
            // Slow readers of a shared stream lose events to writes of this stream only.
            let protected = if std::ptr::eq(&**other, stream) {
                Protected::UnreadByAll
            } else {
                Protected::Unread
            };
            let evicted = other.log().evict(excess, protected);
            self.add(other.account(), -(evicted as i64));
            freed += evicted;
        }
    }
}
