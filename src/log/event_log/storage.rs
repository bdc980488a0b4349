//! The memory of a log: blocks in segments.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use tokio::time::Instant;

use super::Log;
use crate::codec::ChunkSlice;

/// One block: its number is its place in the stream, and its bytes begin where those of the block before it end.
pub(super) struct Entry {
    pub(super) since: Instant,
    /// Where it ends in its segment. (The last one of a segment ends with it, also beyond 4 GiB.)
    pub(super) end: u32,
    pub(super) is_event: bool,
}

/// Neighbouring blocks in one buffer.
///
/// Blocks that are written together come in a buffer of their own. Those that come one by one are merged, or the buffers would
/// take more memory than the blocks.
pub(super) struct Segment {
    pub(super) run: ChunkSlice,
    /// The number of its first block. (In the first segment, some blocks may have been evicted.)
    pub(super) first: u64,
    pub(super) epoch: u64,
    /// The bytes of all blocks in the segments before it, also of those that were evicted.
    pub(super) so_far: u64,
}

/// What a block counts for beside its bytes: its entry, and its part of a segment's memory where segments are merged.
pub(crate) const BLOCK: usize = 40;

/// The memory of an entry, with what a growing deque has to spare.
pub(super) const ENTRY: usize = size_of::<Entry>() * 5 / 4;

/// The memory of a segment beside its bytes: itself, the chunk, the handle by which its bytes are shared, and what an allocator
/// needs for them.
pub(super) const SEGMENT: usize = size_of::<Segment>() * 5 / 4 + ChunkSlice::CHUNK + 3 * 16 + 32;

/// The memory that a block takes beside its bytes, if it was written alone.
#[cfg(test)]
pub(crate) const OVERHEAD: usize = ENTRY + SEGMENT;

/// Segments of less than this are merged ...
const SMALL: usize = 2 << 10;

/// ... once they are as much as this together.
const MERGED: usize = 4 << 10;

/// A log that is not larger than this becomes one segment when its stream ends.
const ONE_SEGMENT: usize = 16 << 10;

impl Log {
    pub(super) fn push(&mut self, block: ChunkSlice, is_event: bool, since: Instant) {
        let (len, epoch) = (block.len(), self.next.epoch);
        let follows = self
            .segments
            .back_mut()
            .is_some_and(|last| last.epoch == epoch && last.run.extend(&block));
        if !follows {
            self.settle(len);
            grow(&mut self.segments);
            self.segments.push_back(Segment {
                run: block,
                first: self.end(),
                epoch,
                so_far: self.so_far,
            });
            self.memory += SEGMENT;
        }
        self.memory += ENTRY + len;
        self.so_far += len as u64;
        let end = self.segments.back().map_or(0, |last| last.run.len());
        let end = end.try_into().unwrap_or(u32::MAX);
        grow(&mut self.entries);
        self.entries.push_back(Entry {
            since,
            end,
            is_event,
        });
    }

    /// Another segment of so many bytes begins, or more: the last one may be merged with those before it.
    fn settle(&mut self, next: usize) {
        let Some(before) = self.segments.len().checked_sub(1) else {
            return;
        };
        // The first of them may have been evicted.
        self.loose = self.loose.min(before);
        let last = self.segments[before].run.len();
        if last >= SMALL {
            return self.merge_loose(before);
        }
        self.loose += 1;
        self.loose_bytes += last;
        if self.loose_bytes >= MERGED || next >= SMALL {
            self.merge_loose(before + 1);
        }
    }

    /// Merges those before this one.
    fn merge_loose(&mut self, end: usize) {
        let from = end - self.loose;
        if end - from > 1 {
            self.rewrite(from, end);
        }
        (self.loose, self.loose_bytes) = (0, 0);
    }

    /// Puts what is kept of these neighbouring segments into one buffer for each epoch.
    pub(super) fn rewrite(&mut self, from: usize, to: usize) {
        let mut to = to;
        while to > from {
            let epoch = self.segments[to - 1].epoch;
            let begin = (from..to).rfind(|&n| self.segments[n].epoch != epoch);
            let begin = begin.map_or(from, |other| other + 1);
            self.rewrite_epoch(begin, to);
            to = begin;
        }
    }

    fn rewrite_epoch(&mut self, from: usize, to: usize) {
        let dead = if from == 0 { self.front_start } else { 0 };
        let size: usize = (from..to).map(|n| self.segments[n].run.len()).sum();
        let mut buffer = Vec::with_capacity(size - dead);
        for n in from..to {
            let start = if n == from { dead } else { 0 };
            let (offset, end) = (buffer.len(), self.segment_end(n));
            let first = self.segments[n].first.max(self.first);
            let run = self.segments[n].run.bytes();
            buffer.extend_from_slice(&run[start..]);
            let entries = (first - self.first) as usize..(end - self.first) as usize;
            for entry in self.entries.range_mut(entries) {
                let end = (entry.end as usize - start) + offset;
                entry.end = end.try_into().unwrap_or(u32::MAX);
            }
        }
        let gone = to - from - 1;
        self.segments.drain(from + 1..to);
        let merged = &mut self.segments[from];
        merged.run = Bytes::from(buffer).into();
        merged.so_far += dead as u64;
        merged.first = merged.first.max(self.first);
        self.memory -= dead + gone * SEGMENT;
        if from == 0 {
            self.front_start = 0;
        }
    }

    /// Gives back the memory that the log does not need if nothing is appended.
    pub(crate) fn compact(&mut self) {
        if self.text() <= ONE_SEGMENT && (self.segments.len() > 1 || self.front_start > 0) {
            self.rewrite(0, self.segments.len());
            (self.loose, self.loose_bytes) = (0, 0);
        } else {
            self.settle(SMALL);
        }
        self.entries.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    /// The number behind the last block of a segment.
    pub(super) fn segment_end(&self, n: usize) -> u64 {
        self.segments
            .get(n + 1)
            .map_or(self.end(), |next| next.first)
    }

    /// The segment that a block is in which is kept.
    pub(super) fn segment_of(&self, at: u64) -> usize {
        let behind = self.segments.partition_point(|segment| segment.first <= at);
        behind.saturating_sub(1)
    }

    /// Where blocks of a segment stand in it.
    pub(super) fn place(&self, segment: usize, from: u64, to: u64) -> Range<usize> {
        let Segment { run, first, .. } = &self.segments[segment];
        let end_of = |at: u64| self.entries[(at - self.first) as usize].end as usize;
        let start = if from == self.first {
            self.front_start
        } else if from == *first {
            0
        } else {
            end_of(from - 1)
        };
        let is_last = to == self.segment_end(segment);
        start..if is_last { run.len() } else { end_of(to - 1) }
    }

    /// The bytes of its blocks.
    pub(super) fn text(&self) -> usize {
        let beside = self.segments.len() * SEGMENT + self.entries.len() * ENTRY;
        self.memory - beside - self.front_start
    }
}

/// Makes room for one more by a quarter, not by doubling.
pub(super) fn grow<T>(deque: &mut VecDeque<T>) {
    if deque.len() == deque.capacity() {
        deque.reserve_exact((deque.len() / 4).max(2));
    }
}

/// Gives back what is unused, if that is most.
pub(super) fn shrink<T>(deque: &mut VecDeque<T>) {
    if deque.len() < deque.capacity() / 2 && deque.capacity() > 16 {
        deque.shrink_to(deque.len() * 5 / 4);
    }
}
