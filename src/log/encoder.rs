//! What goes into a log: blocks, each event with an id of ours.

use std::{borrow::Cow, collections::VecDeque, io::Write};

use bytes::Bytes;

use crate::log::{EventId, Position, StreamId, event_log::BLOCK};
use crate::{
    codec::{BOM, Block, ChunkSlice, with_id, without_id},
    upstream::sink::Sink,
};

/// Events that come together share a chunk of about this size, so that they can leave together without being copied. No larger,
/// for it is kept until the last of them is let go.
const CHUNK: usize = 16 << 10;

/// Room for so many blocks may stay while none come.
const SPARE: usize = 8;

/// What an id takes at the most.
const ID: usize = 80;

/// Collects blocks until they are written.
#[derive(Debug)]
pub(crate) struct LogEncoder {
    /// Of the ids; without one, events keep those that they have.
    token: Option<StreamId>,
    blocks: VecDeque<Block>,
    /// What they will take.
    bytes: u64,
    room: (u64, u64),
    /// The unfinished rest of the stream. Only at its end it is known to be that.
    rest: Option<Block>,
    /// The last id of the upstream's.
    last_id: Option<String>,
}

impl LogEncoder {
    pub(crate) fn new(token: Option<StreamId>) -> Self {
        Self {
            token,
            blocks: VecDeque::new(),
            bytes: 0,
            room: (0, 0),
            rest: None,
            last_id: None,
        }
    }

    /// The last id that the upstream gave to what was taken, if it gave any.
    pub(crate) fn last_id(&mut self) -> Option<String> {
        self.last_id.take()
    }

    /// Takes so much until it is full.
    pub(crate) fn make_room(&mut self, blocks: u64, bytes: u64) {
        self.room = (blocks, bytes);
    }

    /// What the next block will take.
    pub(crate) fn next_size(&self) -> u64 {
        self.blocks.front().map_or(0, size)
    }

    /// How many blocks wait.
    pub(crate) fn waiting(&self) -> usize {
        self.blocks.len()
    }

    /// Gives back the memory of a burst, for nothing may come for long.
    pub(crate) fn rest(&mut self) {
        if self.blocks.is_empty() && self.blocks.capacity() > SPARE {
            self.blocks = VecDeque::new();
        }
    }

    /// The stream is over: the unfinished rest is one more block.
    pub(crate) fn finish(&mut self) {
        if let Some(mut rest) = self.rest.take() {
            // Nobody resumes after what is not finished, by our id or by the upstream's.
            if self.token.is_some() && rest.has_id() {
                rest = without_id(&rest);
            }
            if !rest.as_bytes().is_empty() {
                self.bytes += size(&rest);
                self.blocks.push_back(rest);
            }
        }
    }

    /// What has been collected, as it is to be kept, and whether it is an event; the first of it stands there. So much as there is
    /// room for, and one block in any case.
    pub(crate) fn take(&mut self, mut next: Position) -> Vec<(ChunkSlice, bool)> {
        let (most, room) = self.room;
        let (mut number, mut bytes) = (0, 0);
        for size in self.blocks.iter().take(most.max(1) as usize).map(size) {
            if number > 0 && bytes + size > room {
                break;
            }
            number += 1;
            bytes += size;
        }
        self.bytes -= bytes;
        let blocks = self.blocks.range(..number);
        // The upstream is not to go on after what it has not finished.
        let mut ids = blocks
            .rev()
            .filter(|block| block.is_terminated())
            .filter_map(|block| block.id().map(Cow::into_owned));
        self.last_id = ids.next().or(self.last_id.take());
        let mut written = Vec::with_capacity(number);
        let mut chunk = Vec::new();
        let mut ends = Vec::new();
        let mut id = Vec::new();
        let mut left = bytes as usize - number * BLOCK;
        for block in self.blocks.drain(..number) {
            let size = size(&block) as usize - BLOCK;
            if !chunk.is_empty() && chunk.len() + size > CHUNK {
                cut(&mut written, &mut chunk, &mut ends);
            }
            if chunk.is_empty() {
                chunk.reserve(left.min(CHUNK).max(size));
            }
            left -= size;
            let is_event = block.is_terminated() && (block.is_event() || block.has_id());
            match self.token {
                Some(stream) if is_event => {
                    id.clear();
                    let position = next;
                    // Into memory: it cannot fail.
                    let _ = write!(id, "{}", EventId { stream, position });
                    with_id(&mut chunk, &block, &id);
                }
                _ => {
                    if block.as_bytes().starts_with(&BOM) {
                        // Text here, it would be a byte order mark at the start of what a client gets.
                        chunk.extend_from_slice(b":\n\n");
                    }
                    chunk.extend_from_slice(block.as_bytes());
                }
            }
            ends.push((chunk.len(), is_event));
            next.sequence += 1;
        }
        cut(&mut written, &mut chunk, &mut ends);
        written
    }
}

/// What a block takes in a log, at the most.
fn size(block: &Block) -> u64 {
    (block.as_bytes().len() + ID + BLOCK) as u64
}

fn cut(written: &mut Vec<(ChunkSlice, bool)>, chunk: &mut Vec<u8>, ends: &mut Vec<(usize, bool)>) {
    let mut chunk = std::mem::take(chunk);
    // What is kept for long leaves no room behind.
    chunk.shrink_to_fit();
    let parts = ChunkSlice::split_at_ends(Bytes::from(chunk), ends.iter().map(|(end, _)| *end));
    written.extend(parts.zip(ends.iter().map(|(_, is_event)| *is_event)));
    ends.clear();
}

impl Sink for LogEncoder {
    /// It stands at the start of a stream only, and nobody knows who will read this from where.
    fn byte_order_mark(&mut self) {}

    fn block(&mut self, block: Block) {
        // As in a stream that is not kept: what is not finished goes if anything follows.
        self.rest = None;
        if block.is_terminated() {
            self.bytes += size(&block);
            self.blocks.push_back(block);
        } else {
            self.rest = Some(block);
        }
    }

    /// The CR before it has ended the line.
    fn split_line_feed(&mut self) {}

    fn is_full(&self) -> bool {
        let (blocks, bytes) = self.room;
        self.blocks.len() as u64 >= blocks || self.bytes >= bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Event,
        codec::{Decoder, Item},
    };

    fn first() -> Position {
        Position {
            epoch: 0,
            sequence: 1,
        }
    }

    /// One that has taken events of so many bytes.
    fn with(sizes: &[usize]) -> LogEncoder {
        let mut stamp = LogEncoder::new(None);
        for &size in sizes {
            stamp.block(Event::new("x".repeat(size - "data: \n\n".len())).into());
        }
        stamp
    }

    #[test]
    fn what_is_taken_is_as_much_as_there_is_room_for_and_at_least_a_block() {
        let mut stamp = with(&[20, 30, 40]);
        let needs = |bytes: usize| (bytes + ID + BLOCK) as u64;
        assert_eq!(stamp.next_size(), needs(20));
        for (room, taken) in [(0, 1), (needs(30) + needs(40) - 1, 1), (needs(40), 1)] {
            stamp.make_room(10, room);
            assert_eq!(stamp.take(first()).len(), taken);
        }
        assert_eq!((stamp.waiting(), stamp.next_size()), (0, 0));
        let mut stamp = with(&[20, 30, 40]);
        stamp.make_room(10, needs(20) + needs(30));
        assert_eq!(stamp.take(first()).len(), 2);
        let mut stamp = with(&[20, 30, 40]);
        stamp.make_room(2, u64::MAX);
        assert_eq!(stamp.take(first()).len(), 2);
        assert_eq!(stamp.waiting(), 1);
    }

    #[test]
    fn it_is_full_when_the_blocks_or_the_bytes_are_as_many_as_there_is_room_for() {
        let mut stamp = with(&[20]);
        let one = stamp.next_size();
        for (room, full) in [
            ((1, one + 1), true),
            ((2, one), true),
            ((2, one + 1), false),
        ] {
            stamp.make_room(room.0, room.1);
            assert_eq!(stamp.is_full(), full, "{room:?}");
        }
        stamp.take(first());
        stamp.make_room(1, 1);
        assert!(!stamp.is_full(), "what was taken needs no room here");
    }

    #[test]
    fn what_comes_together_shares_chunks_that_are_not_too_large() {
        let mut stamp = with(&[7000; 3]);
        stamp.make_room(3, u64::MAX);
        let mut written = stamp.take(first()).into_iter().map(|(block, _)| block);
        let (mut one, two) = (written.next().unwrap(), written.next().unwrap());
        let three = written.next().unwrap();
        assert!(one.extend(&two), "in one chunk");
        assert!(!one.extend(&three), "in the next");
    }

    #[test]
    fn the_rest_of_a_stream_loses_its_id_where_ids_are_ours() {
        for (token, left) in [
            (Some(StreamId::random()), "data: x"),
            (None, "id: 1\ndata: x"),
        ] {
            let mut decoder = Decoder::default();
            decoder.push("id: 1\ndata: x".into());
            assert!(decoder.next_item().unwrap().is_none());
            let Some(Item::Event(rest)) = decoder.finish() else {
                panic!("there is a rest");
            };
            let mut stamp = LogEncoder::new(token);
            stamp.block(rest.into());
            assert_eq!(stamp.waiting(), 0, "something may follow");
            stamp.finish();
            let written = stamp.take(first());
            assert_eq!(written.len(), 1);
            assert_eq!(written[0].0.bytes(), left.as_bytes());
        }
    }
}
