//! The memory of a log: blocks in segments.
//!
//! A segment is one buffer with neighboring blocks. An entry of 16 bytes says where a block ends. Eviction frees whole buffers, or
//! copies the rest of one if more than half of it is evicted.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    codec::ChunkSlice,
    log::{Cursor, Position},
};

/// The blocks of one log, from the oldest that is not evicted.
pub(super) struct Blocks {
    entries: VecDeque<Entry>,
    segments: VecDeque<Segment>,
    /// The start of the oldest block in the first segment. The bytes before it are evicted.
    front_start: usize,
    /// The number of segments at the end that may be merged, and their bytes.
    mergeable: usize,
    mergeable_bytes: usize,
    /// The sequence number of the oldest block.
    first: u64,
    events: usize,
    /// The memory, in bytes, of all segments and entries.
    memory: usize,
    /// The bytes of all blocks that were ever pushed.
    total_bytes: u64,
}

/// One block. It starts where the block before it ends.
struct Entry {
    since: Instant,
    /// The end of the block in its segment. The last block of a segment ends with the segment, also beyond 4 GiB.
    end: u32,
    is_event: bool,
}

/// Neighboring blocks in one buffer.
///
/// Blocks that are written together share a buffer. Small buffers of blocks that are written one by one are merged: a buffer for
/// each would take more memory than the block.
struct Segment {
    bytes: ChunkSlice,
    /// The sequence number of the first block. In the first segment, this block may be evicted.
    first: u64,
    epoch: u64,
    /// The bytes of all blocks in earlier segments, evicted or not.
    total_before: u64,
}

/// The bytes that [`Retention::bytes`](crate::replay::Retention::bytes) counts for a block beside its text: its entry, and its part of
/// the memory of a merged segment.
pub(crate) const BLOCK_OVERHEAD: usize = 40;

/// The memory, in bytes, of an entry, with the spare capacity of the deque.
const ENTRY: usize = size_of::<Entry>() * 5 / 4;

/// The memory, in bytes, of a segment beside its text: the segment, the chunk, the handle that shares the bytes, and the overhead of
/// an allocator.
pub(super) const SEGMENT: usize =
    size_of::<Segment>() * 5 / 4 + ChunkSlice::CHUNK_OVERHEAD + 3 * 16 + 32;

/// The memory, in bytes, of a block that was written alone, beside its text.
#[cfg(test)]
pub(crate) const SINGLE_BLOCK_OVERHEAD: usize = ENTRY + SEGMENT;

/// Segments below this size, in bytes, are merged: once they have [`MERGED_SEGMENT`] bytes together, or before a segment of this size.
const SMALL_SEGMENT: usize = 2 << 10;

/// The size, in bytes, that neighboring small segments need together to be merged.
const MERGED_SEGMENT: usize = 4 << 10;

/// A log up to this size, in bytes, becomes one segment when its stream ends.
const ONE_SEGMENT: usize = 16 << 10;

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            segments: VecDeque::new(),
            front_start: 0,
            mergeable: 0,
            mergeable_bytes: 0,
            first: 0,
            events: 0,
            memory: 0,
            total_bytes: 0,
        }
    }

    /// The number of blocks.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of blocks that are events.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// The sequence number of the oldest block.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The sequence number after the newest block.
    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// When the oldest block was written.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        self.entries.front().map(|oldest| oldest.since)
    }

    /// The time at which the block with this sequence number was written. If it was evicted, the time of the oldest block; if it is not
    /// written yet, `None`.
    pub(super) fn since(&self, sequence: u64) -> Option<Instant> {
        let index = sequence.saturating_sub(self.first);
        let entry = self.entries.get(usize::try_from(index).ok()?)?;
        Some(entry.since)
    }

    /// The size, in bytes, that retention limits.
    pub(super) fn bytes(&self) -> usize {
        self.text() + self.entries.len() * BLOCK_OVERHEAD
    }

    /// The allocated memory, in bytes. Up to half of the first buffer belongs to evicted blocks.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// The bytes of the blocks.
    fn text(&self) -> usize {
        let overhead = self.segments.len() * SEGMENT + self.entries.len() * ENTRY;
        self.memory - overhead - self.front_start
    }

    pub(super) fn push(&mut self, block: ChunkSlice, is_event: bool, epoch: u64, since: Instant) {
        let len = block.len();
        let is_neighbor = self
            .segments
            .back_mut()
            .is_some_and(|last| last.epoch == epoch && last.bytes.extend(&block));
        if !is_neighbor {
            self.merge_before(len);
            grow(&mut self.segments);
            self.segments.push_back(Segment {
                bytes: block,
                first: self.end(),
                epoch,
                total_before: self.total_bytes,
            });
            self.memory += SEGMENT;
        }
        self.memory += ENTRY + len;
        self.total_bytes += len as u64;
        let end = self.segments.back().map_or(0, |last| last.bytes.len());
        let end = end.try_into().unwrap_or(u32::MAX);
        grow(&mut self.entries);
        self.entries.push_back(Entry {
            since,
            end,
            is_event,
        });
        self.events += usize::from(is_event);
    }

    /// Merges small segments if they are large enough together, or if the next segment is not small.
    fn merge_before(&mut self, next: usize) {
        let Some(last) = self.segments.len().checked_sub(1) else {
            return;
        };
        // Some of these segments may be evicted.
        self.mergeable = self.mergeable.min(last);
        let size = self.segments[last].bytes.len();
        if size >= SMALL_SEGMENT {
            return self.merge_up_to(last);
        }
        self.mergeable += 1;
        self.mergeable_bytes += size;
        if self.mergeable_bytes >= MERGED_SEGMENT || next >= SMALL_SEGMENT {
            self.merge_up_to(last + 1);
        }
    }

    fn merge_up_to(&mut self, end: usize) {
        let from = end - self.mergeable;
        if self.mergeable > 1 {
            self.rewrite(from, end);
        }
        (self.mergeable, self.mergeable_bytes) = (0, 0);
    }

    /// Copies the blocks of these segments into one buffer for each epoch.
    fn rewrite(&mut self, from: usize, to: usize) {
        let mut to = to;
        while to > from {
            let epoch = self.segments[to - 1].epoch;
            let other = (from..to).rfind(|&n| self.segments[n].epoch != epoch);
            let start = other.map_or(from, |other| other + 1);
            self.rewrite_epoch(start, to);
            to = start;
        }
    }

    fn rewrite_epoch(&mut self, from: usize, to: usize) {
        let evicted = if from == 0 { self.front_start } else { 0 };
        let size: usize = (from..to).map(|n| self.segments[n].bytes.len()).sum();
        let mut buffer = Vec::with_capacity(size - evicted);
        for n in from..to {
            let start = if n == from { evicted } else { 0 };
            let (offset, end) = (buffer.len(), self.segment_end(n));
            let first = self.segments[n].first.max(self.first);
            let bytes = self.segments[n].bytes.bytes();
            buffer.extend_from_slice(&bytes[start..]);
            let entries = (first - self.first) as usize..(end - self.first) as usize;
            for entry in self.entries.range_mut(entries) {
                let end = (entry.end as usize - start) + offset;
                entry.end = end.try_into().unwrap_or(u32::MAX);
            }
        }
        let removed = to - from - 1;
        self.segments.drain(from + 1..to);
        let merged = &mut self.segments[from];
        merged.bytes = Bytes::from(buffer).into();
        merged.total_before += evicted as u64;
        merged.first = merged.first.max(self.first);
        self.memory -= evicted + removed * SEGMENT;
        if from == 0 {
            self.front_start = 0;
        }
    }

    /// Frees spare capacity. For a log to which nothing more is appended.
    pub(super) fn compact(&mut self) {
        if self.text() <= ONE_SEGMENT && (self.segments.len() > 1 || self.front_start > 0) {
            self.rewrite(0, self.segments.len());
            (self.mergeable, self.mergeable_bytes) = (0, 0);
        } else {
            self.merge_before(SMALL_SEGMENT);
        }
        self.entries.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    /// Evicts the oldest block. Returns its position if it was an event.
    pub(super) fn evict_oldest(&mut self) -> Option<Position> {
        let (oldest, segment) = (self.entries.pop_front()?, self.segments.front()?);
        let evicted = oldest.is_event.then_some(Position {
            epoch: segment.epoch,
            sequence: self.first,
        });
        self.events -= usize::from(oldest.is_event);
        self.first += 1;
        self.memory -= ENTRY;
        self.front_start = oldest.end as usize;
        if self.first >= self.segment_end(0) {
            self.memory -= segment.bytes.len() + SEGMENT;
            self.segments.pop_front();
            self.front_start = 0;
        }
        evicted
    }

    /// The memory, in bytes, that [`trim`](Self::trim) would free.
    pub(super) fn trimmable(&self) -> usize {
        let first = self.segments.front();
        let is_most = first.is_some_and(|first| self.front_start > first.bytes.len() / 2);
        if is_most { self.front_start } else { 0 }
    }

    /// Frees the memory of evicted blocks, if they are more than half of the first buffer, by a copy of the rest.
    pub(super) fn trim(&mut self) {
        if self.trimmable() > 0 {
            self.rewrite(0, 1);
        }
        shrink(&mut self.entries);
        shrink(&mut self.segments);
    }

    /// The sequence number after the last block of a segment.
    fn segment_end(&self, n: usize) -> u64 {
        self.segments
            .get(n + 1)
            .map_or(self.end(), |next| next.first)
    }

    /// The index of the segment of a block.
    fn segment_of(&self, sequence: u64) -> usize {
        let after = self
            .segments
            .partition_point(|segment| segment.first <= sequence);
        after.saturating_sub(1)
    }

    /// The byte range, in a segment, of its blocks from `from` on and before `to`.
    fn range(&self, segment: usize, from: u64, to: u64) -> Range<usize> {
        let Segment { bytes, first, .. } = &self.segments[segment];
        let end_of = |sequence: u64| self.entries[(sequence - self.first) as usize].end as usize;
        let start = if from == self.first {
            self.front_start
        } else if from == *first {
            0
        } else {
            end_of(from - 1)
        };
        let is_last = to == self.segment_end(segment);
        start..if is_last { bytes.len() } else { end_of(to - 1) }
    }

    /// The epoch of a block that is not evicted.
    pub(super) fn epoch_of(&self, sequence: u64) -> u64 {
        self.segments[self.segment_of(sequence)].epoch
    }

    /// The sequence number after the last block that is not later than this position.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn end_at(&self, position: Position) -> Option<u64> {
        let Position { epoch, sequence } = position;
        let after = self
            .segments
            .partition_point(|segment| (segment.epoch, segment.first) <= (epoch, sequence));
        let last = after.checked_sub(1)?;
        let end = self.segment_end(last);
        let is_in_epoch = self.segments[last].epoch == epoch;
        Some(if is_in_epoch {
            end.min(sequence + 1)
        } else {
            end
        })
    }

    /// The last event before `end` for which `matches` returns true.
    pub(super) fn find_event(&self, end: u64, matches: impl Fn(&[u8]) -> bool) -> Option<Position> {
        for (n, segment) in self.segments.iter().enumerate().rev() {
            let first = segment.first.max(self.first);
            for sequence in (first..self.segment_end(n).min(end)).rev() {
                let is_event = self.entries[(sequence - self.first) as usize].is_event;
                let range = self.range(n, sequence, sequence + 1);
                if is_event && matches(&segment.bytes.bytes()[range]) {
                    let epoch = segment.epoch;
                    return Some(Position { epoch, sequence });
                }
            }
        }
        None
    }

    /// Whether there is an event at or after this sequence number.
    pub(super) fn has_events_from(&self, sequence: u64) -> bool {
        let index = sequence.saturating_sub(self.first) as usize;
        let mut entries = self.entries.iter().skip(index);
        entries.any(|entry| entry.is_event)
    }

    /// The number of blocks from this sequence number on, and their size in bytes as retention counts it.
    pub(super) fn size_from(&self, sequence: u64) -> (u64, u64) {
        let from = sequence.max(self.first);
        let blocks = self.end().saturating_sub(from);
        if blocks == 0 {
            return (0, 0);
        }
        let n = self.segment_of(from);
        let before = self.segments[n].total_before + self.range(n, from, from + 1).start as u64;
        let bytes = self.total_bytes - before + blocks * BLOCK_OVERHEAD as u64;
        (blocks, bytes)
    }

    /// Reads neighboring blocks from `from` on and before `end`, without a copy: as many as fit in `max_bytes`, and at least one if
    /// `at_least_one` is set. Returns `None` if none fits.
    pub(super) fn read(
        &self,
        from: u64,
        end: u64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Option<(ChunkSlice, Cursor)> {
        let n = self.segment_of(from);
        let mut next = if max_bytes == 0 && at_least_one {
            from + 1
        } else {
            self.segment_end(n).min(end)
        };
        let mut range = self.range(n, from, next);
        if range.len() > max_bytes && next > from + 1 {
            // Finds the last block that ends within so many bytes.
            let (mut fits, mut exceeds) = (from, next);
            while exceeds - fits > 1 {
                let middle = fits + (exceeds - fits) / 2;
                if self.range(n, from, middle).len() > max_bytes {
                    exceeds = middle;
                } else {
                    fits = middle;
                }
            }
            next = fits.max(from + 1);
            range = self.range(n, from, next);
        }
        let fits = range.len() <= max_bytes || at_least_one;
        fits.then(|| (self.segments[n].bytes.slice(range), Cursor(next)))
    }
}

/// Reserves space for a quarter more elements, not for twice as many.
fn grow<T>(deque: &mut VecDeque<T>) {
    if deque.len() == deque.capacity() {
        deque.reserve_exact((deque.len() / 4).max(2));
    }
}

/// Frees spare capacity if it is more than half.
fn shrink<T>(deque: &mut VecDeque<T>) {
    if deque.len() < deque.capacity() / 2 && deque.capacity() > 16 {
        deque.shrink_to(deque.len() * 5 / 4);
    }
}

#[cfg(test)]
mod tests;
