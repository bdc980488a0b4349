//! Eviction from the logs of a layer, when there is no room for all.

use std::{cmp::Reverse, sync::Arc};

use super::{LogRegistry, Record, Shelf};
use crate::{log::shared_log::Spare, replay::quota::Account};

impl<R: Record> LogRegistry<R> {
    /// Evicts what goes first, for a stream that was written to.
    pub(super) fn make_room(&self, record: &R) {
        let own_excess = self.own_excess(record);
        if own_excess > 0 {
            self.make_room_of_own(record, own_excess);
        }
        if self.excess() > 0 {
            for (owner, account) in self.larger_than(record.account().bytes()) {
                let larger = account.bytes();
                let larger = larger.saturating_sub(record.account().bytes());
                self.evict_idle(&owner, self.excess().min(larger));
            }
        }
        let excess = self.excess();
        if excess > 0 {
            self.make_room_of_own(record, excess);
        }
    }

    /// The owners that hold more than this, the largest first.
    fn larger_than(&self, bytes: usize) -> Vec<(R::Owner, Arc<Account>)> {
        let shelf = self.lock();
        let larger = shelf.by_owner.iter();
        let larger = larger.filter(|(_, owned)| owned.account.bytes() > bytes);
        let larger = larger.map(|(owner, owned)| (owner.clone(), Arc::clone(&owned.account)));
        let mut larger: Vec<_> = larger.collect();
        drop(shelf);
        larger.sort_by_cached_key(|(_, account)| Reverse(account.bytes()));
        larger
    }

    fn make_room_of_own(&self, record: &R, excess: usize) {
        let freed = self.evict_idle(record.owner(), excess);
        if freed < excess {
            self.evict_read(record, excess - freed);
        }
    }

    /// Evicts what was written the longest time ago, roughly, of the logs of an owner that have no client: logs that nothing has been
    /// written to since they were last looked at go first. Returns how many bytes were freed.
    fn evict_idle(&self, owner: &R::Owner, bytes: usize) -> usize {
        let mut freed = 0;
        let queued = |shelf: &Shelf<R>| shelf.by_owner.get(owner).map_or(0, |it| it.queue.len());
        let mut spared = queued(&self.lock());
        let mut looked_at = 2 * spared;
        while looked_at > 0 && freed < bytes {
            looked_at -= 1;
            let mut shelf = self.lock();
            let Shelf {
                by_token, by_owner, ..
            } = &mut *shelf;
            let Some(owned) = by_owner.get_mut(owner) else {
                break;
            };
            let Some((token, writes)) = owned.queue.pop_front() else {
                break;
            };
            let Some(record) = by_token.get(&token) else {
                continue;
            };
            let record = Arc::clone(&record.record);
            drop(shelf);
            let now = record.channel().writes();
            if let Some(owned) = self.lock().by_owner.get_mut(owner) {
                owned.queue.push_back((token, now));
            }
            if now != writes && spared > 0 {
                spared -= 1;
                continue;
            }
            let evicted = record.channel().shrink(bytes - freed, Spare::Connected);
            self.add(record.account(), -(evicted as i64));
            freed += evicted;
        }
        freed
    }

    /// Evicts what clients have read, of the streams of this one's owner that do not fit behind the older ones.
    fn evict_read(&self, record: &R, bytes: usize) {
        let shelf = self.lock();
        let owned = shelf.by_owner.get(record.owner());
        let records = owned.into_iter().flat_map(|owned| owned.by_number.values());
        let records: Vec<_> = records.cloned().collect();
        drop(shelf);
        let most = record.account().bytes().saturating_sub(bytes);
        let mut held = 0;
        // How many bytes are too many when this stream and all older ones are counted.
        let over = records.iter().map(|record| {
            held += record.channel().held();
            held.saturating_sub(most)
        });
        let over: Vec<_> = over.collect();
        let mut freed = 0;
        for (other, over) in records.iter().zip(over).rev() {
            let excess = over.min(bytes.saturating_sub(freed));
            if excess == 0 {
                break;
            }
            // A slow reader of a shared stream is cut by what that stream writes, not by what others write.
            let spare = if std::ptr::eq(&**other, record) {
                Spare::UnreadByAll
            } else {
                Spare::Unread
            };
            let evicted = other.channel().shrink(excess, spare);
            self.add(other.account(), -(evicted as i64));
            freed += evicted;
        }
    }
}
