//! Encodes the blocks of a stream for its log: each event gets an id of the layer.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;

use crate::{
    codec::{BOM, Block, ChunkSlice, with_id, without_id},
    log::{Position, blocks::BLOCK_OVERHEAD, id::EventIdWriter},
    stream_id::StreamId,
    upstream::sink::Sink,
};

/// The maximum size, in bytes, of a chunk that events share, unless one event is larger. Neighbors in a chunk leave in one frame
/// without a copy. The chunk stays until the last of its events is evicted.
const MAX_CHUNK: usize = 16 << 10;

/// The capacity, in blocks, that an empty encoder keeps.
const SPARE_CAPACITY: usize = 8;

/// The maximum size, in bytes, of an `id` line.
const MAX_ID_LINE: usize = 80;

/// Collects blocks until the log has room for them.
#[derive(Debug)]
pub(crate) struct LogEncoder {
    /// Writes the ids of the events. With `None`, events keep the ids of the upstream.
    ids: Option<EventIdWriter>,
    blocks: VecDeque<Block>,
    /// The upper bound, in bytes, of the size of the blocks in a log.
    bytes: u64,
    /// The encoder is full with this number of blocks.
    max_blocks: u64,
    /// The encoder is full with this number of bytes.
    max_bytes: u64,
    /// The last block, if it is not terminated. It is dropped if another block follows.
    unterminated: Option<Block>,
    last_id: Option<String>,
}

impl LogEncoder {
    /// Writes ids of this stream into events. With `None`, events keep the ids of the upstream.
    pub(crate) fn new(stream: Option<StreamId>) -> Self {
        Self {
            ids: stream.map(EventIdWriter::new),
            blocks: VecDeque::new(),
            bytes: 0,
            max_blocks: 0,
            max_bytes: 0,
            unterminated: None,
            last_id: None,
        }
    }

    /// Takes the last id of the upstream in the encoded blocks.
    pub(crate) fn take_last_id(&mut self) -> Option<String> {
        self.last_id.take()
    }

    /// Sets the number of blocks and bytes for which the log has room.
    pub(crate) fn set_room(&mut self, blocks: u64, bytes: u64) {
        (self.max_blocks, self.max_bytes) = (blocks, bytes);
    }

    /// The upper bound, in bytes, of the size of the next block in a log. 0 if there is none.
    pub(crate) fn next_size(&self) -> u64 {
        self.blocks.front().map_or(0, max_size)
    }

    /// The number of collected blocks.
    pub(crate) fn pending(&self) -> usize {
        self.blocks.len()
    }

    /// Frees the memory of a burst of blocks.
    pub(crate) fn shrink(&mut self) {
        if self.blocks.is_empty() && self.blocks.capacity() > SPARE_CAPACITY {
            self.blocks = VecDeque::new();
        }
    }

    /// Adds the last block, if it is not terminated. For the end of the stream.
    pub(crate) fn finish(&mut self) {
        if let Some(mut block) = self.unterminated.take() {
            // A client does not resume after an event that is not complete, neither by an id of the layer nor of the upstream.
            if self.ids.is_some() && block.has_id() {
                block = without_id(&block);
            }
            if !block.as_bytes().is_empty() {
                self.bytes += max_size(&block);
                self.blocks.push_back(block);
            }
        }
    }

    /// Encodes collected blocks, as many as there is room for and at least one. Returns each block with whether it is an event. `next` is
    /// the position of the first block.
    pub(crate) fn encode(&mut self, mut next: Position) -> Vec<(ChunkSlice, bool)> {
        let (mut count, mut bytes) = (0, 0);
        let most = self.max_blocks.max(1) as usize;
        for size in self.blocks.iter().take(most).map(max_size) {
            if count > 0 && bytes + size > self.max_bytes {
                break;
            }
            count += 1;
            bytes += size;
        }
        self.bytes -= bytes;
        // The upstream must not continue after an event that is not terminated.
        let mut ids = self
            .blocks
            .range(..count)
            .rev()
            .filter(|block| block.is_terminated())
            .filter_map(|block| block.id().map(Cow::into_owned));
        self.last_id = ids.next().or(self.last_id.take());
        let mut encoded = Vec::with_capacity(count);
        let mut chunk = Vec::new();
        let mut ends = Vec::new();
        let mut left = bytes as usize - count * BLOCK_OVERHEAD;
        for block in self.blocks.drain(..count) {
            let size = max_size(&block) as usize - BLOCK_OVERHEAD;
            if !chunk.is_empty() && chunk.len() + size > MAX_CHUNK {
                finish_chunk(&mut encoded, &mut chunk, &mut ends);
            }
            if chunk.is_empty() {
                chunk.reserve(left.min(MAX_CHUNK).max(size));
            }
            left -= size;
            let is_event = block.is_terminated() && (block.is_event() || block.has_id());
            match &mut self.ids {
                Some(ids) if is_event => with_id(&mut chunk, &block, ids.write(next)),
                _ => {
                    if block.as_bytes().starts_with(&BOM) {
                        // U+FEFF at the start of this block is text. At the start of a response it would be a byte order mark.
                        chunk.extend_from_slice(b":\n\n");
                    }
                    chunk.extend_from_slice(block.as_bytes());
                }
            }
            ends.push((chunk.len(), is_event));
            next.sequence += 1;
        }
        finish_chunk(&mut encoded, &mut chunk, &mut ends);
        encoded
    }
}

/// The upper bound, in bytes, of the size of a block in a log.
fn max_size(block: &Block) -> u64 {
    (block.as_bytes().len() + MAX_ID_LINE + BLOCK_OVERHEAD) as u64
}

/// Cuts a chunk into its blocks.
fn finish_chunk(
    encoded: &mut Vec<(ChunkSlice, bool)>,
    chunk: &mut Vec<u8>,
    ends: &mut Vec<(usize, bool)>,
) {
    let mut chunk = std::mem::take(chunk);
    // The log keeps the chunk for a long time.
    chunk.shrink_to_fit();
    let parts = ChunkSlice::split_at_ends(Bytes::from(chunk), ends.iter().map(|(end, _)| *end));
    encoded.extend(parts.zip(ends.iter().map(|(_, is_event)| *is_event)));
    ends.clear();
}

impl Sink for LogEncoder {
    /// Dropped: a byte order mark is valid at the start of a response only, and clients read from any block on.
    fn byte_order_mark(&mut self) {}

    fn block(&mut self, block: Block) {
        // A block that is not terminated is valid at the end of a stream only.
        self.unterminated = None;
        if block.is_terminated() {
            self.bytes += max_size(&block);
            self.blocks.push_back(block);
        } else {
            self.unterminated = Some(block);
        }
    }

    /// Dropped: the CR before it has ended the line.
    fn split_line_feed(&mut self) {}

    fn waiting_bytes(&self) -> usize {
        self.bytes as usize
    }

    fn is_full(&self) -> bool {
        self.blocks.len() as u64 >= self.max_blocks || self.bytes >= self.max_bytes
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

    /// An encoder with events of these sizes, in bytes.
    fn with(sizes: &[usize]) -> LogEncoder {
        let mut encoder = LogEncoder::new(None);
        for &size in sizes {
            encoder.block(Event::new("x".repeat(size - "data: \n\n".len())).into());
        }
        encoder
    }

    #[test]
    fn encode_takes_what_has_room_and_at_least_one_block() {
        let mut encoder = with(&[20, 30, 40]);
        let needs = |bytes: usize| (bytes + MAX_ID_LINE + BLOCK_OVERHEAD) as u64;
        assert_eq!(encoder.next_size(), needs(20));
        for (room, count) in [(0, 1), (needs(30) + needs(40) - 1, 1), (needs(40), 1)] {
            encoder.set_room(10, room);
            assert_eq!(encoder.encode(first()).len(), count);
        }
        assert_eq!((encoder.pending(), encoder.next_size()), (0, 0));
        let mut encoder = with(&[20, 30, 40]);
        encoder.set_room(10, needs(20) + needs(30));
        assert_eq!(encoder.encode(first()).len(), 2);
        let mut encoder = with(&[20, 30, 40]);
        encoder.set_room(2, u64::MAX);
        assert_eq!(encoder.encode(first()).len(), 2);
        assert_eq!(encoder.pending(), 1);
    }

    #[test]
    fn encoder_is_full_at_the_limit_of_blocks_or_bytes() {
        let mut encoder = with(&[20]);
        let one = encoder.next_size();
        for (room, full) in [
            ((1, one + 1), true),
            ((2, one), true),
            ((2, one + 1), false),
        ] {
            encoder.set_room(room.0, room.1);
            assert_eq!(encoder.is_full(), full, "{room:?}");
        }
        encoder.encode(first());
        encoder.set_room(1, 1);
        assert!(!encoder.is_full(), "encoded blocks take no room");
    }

    #[test]
    fn blocks_share_chunks_of_bounded_size() {
        let mut encoder = with(&[7000; 3]);
        encoder.set_room(3, u64::MAX);
        let mut encoded = encoder.encode(first()).into_iter().map(|(block, _)| block);
        let (mut one, two) = (encoded.next().unwrap(), encoded.next().unwrap());
        let three = encoded.next().unwrap();
        assert!(one.extend(&two), "in the same chunk");
        assert!(!one.extend(&three), "in the next chunk");

        let largest = MAX_CHUNK - 7000 - MAX_ID_LINE;
        for (size, share) in [(largest, true), (largest + 1, false)] {
            let mut encoder = with(&[7000, size]);
            encoder.set_room(2, u64::MAX);
            let mut encoded = encoder.encode(first()).into_iter().map(|(block, _)| block);
            let (mut one, two) = (encoded.next().unwrap(), encoded.next().unwrap());
            assert_eq!(one.extend(&two), share, "{size}");
        }
    }

    #[test]
    fn unterminated_block_loses_its_id_unless_ids_are_of_the_upstream() {
        for (stream, expected) in [
            (Some(StreamId::random()), "data: x"),
            (None, "id: 1\ndata: x"),
        ] {
            let mut decoder = Decoder::default();
            decoder.push("id: 1\ndata: x".into());
            assert!(decoder.next_item().unwrap().is_none());
            let Some(Item::Event(rest)) = decoder.finish() else {
                panic!("the decoder returns the unterminated event");
            };
            let mut encoder = LogEncoder::new(stream);
            encoder.block(rest.into());
            assert_eq!(encoder.pending(), 0, "another block may follow");
            encoder.finish();
            let encoded = encoder.encode(first());
            assert_eq!(encoded.len(), 1);
            assert_eq!(encoded[0].0.bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn shrink_frees_the_memory_of_a_burst_that_was_encoded() {
        let mut encoder = with(&[20; 100]);
        encoder.shrink();
        assert_eq!(encoder.pending(), 100);
        encoder.set_room(100, u64::MAX);
        assert_eq!(encoder.encode(first()).len(), 100);
        assert!(encoder.blocks.capacity() > SPARE_CAPACITY);
        encoder.shrink();
        assert!(encoder.blocks.capacity() <= SPARE_CAPACITY);
    }
}
