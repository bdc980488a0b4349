//! Eviction from a log: by age, by size, and for other logs.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Log,
    storage::{ENTRY, SEGMENT, shrink},
};
use crate::log::Position;

impl Log {
    /// Lets go of what is too old by now, and says when there is something to let go of again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.expire_but(now, 0)
    }

    /// As [`expire`](Self::expire), but for so many of the last blocks.
    pub(crate) fn expire_but(&mut self, now: Instant, hold: usize) -> Option<Instant> {
        self.evict(now, hold);
        let oldest = self
            .entries
            .front()
            .filter(|_| self.first < self.committed)?;
        let age = self.bounds.age;
        let at = oldest.since.checked_add(age)?;
        if at > now {
            return Some(at);
        }
        // It is held. Nobody tells when it is no longer.
        now.checked_add(age.max(Duration::from_secs(1)))
    }

    /// Lets go of the oldest until so many bytes are free, but for so many blocks: there is no room for all logs. Returns how
    /// many are.
    pub fn shrink(&mut self, bytes: usize, keep: usize) -> usize {
        let before = self.bytes();
        while before - self.bytes() < bytes && self.may_let_go(keep) {
            self.let_go();
        }
        self.trim();
        before - self.bytes()
    }

    /// Lets go of the oldest until so much memory is free, but for so many blocks. Returns how much is.
    ///
    /// A buffer is freed as a whole, or by a copy of what is kept of it, which is worth it only for less than half: so up to half
    /// a buffer more goes than had to.
    pub(crate) fn release(&mut self, memory: usize, keep: usize) -> usize {
        let before = self.memory;
        while before - self.memory + self.trimmable() < memory && self.may_let_go(keep) {
            self.let_go();
        }
        self.trim();
        before - self.memory
    }

    fn may_let_go(&self, keep: usize) -> bool {
        self.entries.len() > keep && self.first < self.committed
    }

    /// Lets go of what is over the bounds, but for so many blocks.
    pub(super) fn evict(&mut self, now: Instant, keep: usize) {
        let before = self.first;
        while self.entries.len() > keep
            && self.first < self.committed
            && let Some(oldest) = self.entries.front()
        {
            let old = now.saturating_duration_since(oldest.since) >= self.bounds.age;
            let over = self.events > self.bounds.events || self.bytes() > self.bounds.bytes;
            // Only age lets go of the last one: it is what a reader at the live edge is about to read.
            if !(old || (over && self.entries.len() > 1)) {
                break;
            }
            self.let_go();
        }
        if self.first > before {
            self.trim();
        }
    }

    /// Lets go of the oldest block.
    fn let_go(&mut self) {
        let (Some(oldest), Some(segment)) = (self.entries.pop_front(), self.segments.front())
        else {
            return;
        };
        if oldest.is_event {
            self.events -= 1;
            let (epoch, number) = (segment.epoch, self.first);
            self.evicted = Some(Position {
                epoch,
                sequence: number,
            });
            self.gap = self.first + 1;
        }
        self.first += 1;
        self.memory -= ENTRY;
        self.front_start = oldest.end as usize;
        if self.first >= self.segment_end(0) {
            self.memory -= segment.run.len() + SEGMENT;
            self.segments.pop_front();
            self.front_start = 0;
        }
    }

    /// How much memory a copy of what is kept of the first buffer would free, if it is worth it.
    fn trimmable(&self) -> usize {
        let first = self.segments.front();
        let is_most = first.is_some_and(|first| self.front_start > first.run.len() / 2);
        if is_most { self.front_start } else { 0 }
    }

    /// Gives back memory of blocks that were evicted, where it is worth a copy of the others.
    fn trim(&mut self) {
        if self.trimmable() > 0 {
            self.rewrite(0, 1);
        }
        shrink(&mut self.entries);
        shrink(&mut self.segments);
    }
}
