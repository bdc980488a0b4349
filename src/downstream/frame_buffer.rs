//! Merges blocks into frames, and copies as few bytes as possible.

use std::{cmp::max, collections::VecDeque};

use bytes::{Bytes, BytesMut};

use crate::{
    codec::{BOM, Block, ChunkSlice},
    upstream::{byte_order_mark, sink::Sink},
};

/// The amount of data at which the buffer is full, in bytes. "Decisions" in ARCHITECTURE.md explains the value.
const MAX_BYTES: usize = 256 << 10;

/// The smallest amount that a block counts for, in bytes.
const MIN_BLOCK_COST: usize = 512;

/// The size from which bytes get a frame of their own instead of a copy.
const LARGE: usize = 8 << 10;

/// Collects blocks, and returns them in as few frames as possible.
///
/// Blocks that are neighbours in a chunk of the upstream become one slice of it, without a copy. Other small blocks are copied into
/// one frame. A server makes a write of each frame, so few frames make a burst cheap.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    /// Complete frames, in order.
    ready: VecDeque<Bytes>,
    /// The next frame: copies of blocks from different chunks.
    copy: BytesMut,
    /// The span after `copy`: neighbouring blocks, as a slice of their chunk.
    span: Option<ChunkSlice>,
    /// An unterminated block at the end of the stream. Nothing can follow it, because clients would read that as a part of it.
    tail: Option<Bytes>,
    /// The amount of data that waits, in bytes, with at least [`MIN_BLOCK_COST`] for each block.
    waiting: usize,
    /// Whether bytes were added, so that the next block is not the start of the client's stream.
    has_begun: bool,
}

impl FrameBuffer {
    /// The amount of data that waits, in bytes. Grows with each block until [`next`](Self::next) has returned all frames; then 0.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes the next frame, if data waits.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() && !self.copy.is_empty() {
            self.flush_span();
            self.flush_copy();
        }
        // The usual case is one span and nothing else, which needs no queue.
        let next = self.ready.pop_front();
        let next = next.or_else(|| self.span.take().map(into_frame));
        if self.ready.is_empty() && self.span.is_none() && self.copy.is_empty() {
            self.waiting = 0;
        }
        next
    }

    /// Handles the end of the stream: adds the unterminated block, if the stream ended with one.
    pub(crate) fn finish(&mut self) {
        if let Some(tail) = self.tail.take() {
            self.push_separate(tail.into());
        }
    }

    /// Adds a keep-alive comment.
    pub(crate) fn keep_alive(&mut self, comment: Bytes) {
        self.push_separate(comment.into());
    }

    /// Adds the bytes of one or more complete blocks, unchanged.
    pub(crate) fn push_span(&mut self, blocks: ChunkSlice) {
        self.push_separate(blocks);
    }

    /// Adds bytes that are not neighbours of the last ones.
    fn push_separate(&mut self, raw: ChunkSlice) {
        self.waiting += max(raw.len(), MIN_BLOCK_COST);
        if !std::mem::replace(&mut self.has_begun, true)
            && (raw.bytes().starts_with(&BOM) || byte_order_mark::is_utf7(raw.bytes()))
        {
            // The upstream sent these bytes in the middle of its stream, where they are text. As the first bytes of a client's
            // stream they would be a byte order mark, and the client would read another field name than the interceptors did. An
            // empty comment before them prevents that.
            self.copy.extend_from_slice(b":\n\n");
        }
        self.flush_span();
        if !self.copy.is_empty() && raw.len() < LARGE && raw.is_whole() {
            // No neighbour can follow: these bytes are all of their chunk.
            self.copy.extend_from_slice(raw.bytes());
        } else {
            self.span = Some(raw);
        }
    }

    /// Ends the span, so that another one can begin: makes it a frame if it is large, or copies it.
    fn flush_span(&mut self) {
        let Some(span) = self.span.take() else {
            return;
        };
        // A server holds a frame as long as its client does not read, and a slice holds its whole chunk. So small parts are copied.
        if span.len() >= LARGE && !span.is_small_part() {
            self.flush_copy();
            self.ready.push_back(span.into_bytes());
            return;
        }
        if self.copy.is_empty() {
            // Other spans follow. Room for a few of them avoids a reallocation for each.
            self.copy
                .reserve(max(span.len(), LARGE.min(4 * span.len())));
        }
        self.copy.extend_from_slice(span.bytes());
    }

    /// Makes the copied blocks a frame.
    fn flush_copy(&mut self) {
        if !self.copy.is_empty() {
            // Takes the whole allocation. With `BytesMut::split` the spare capacity would stay allocated while the stream is idle.
            self.ready
                .push_back(std::mem::take(&mut self.copy).freeze());
        }
    }
}

/// Makes a span a frame: a copy if it is a small part of its chunk.
fn into_frame(span: ChunkSlice) -> Bytes {
    if span.is_small_part() {
        Bytes::copy_from_slice(span.bytes())
    } else {
        span.into_bytes()
    }
}

impl Sink for FrameBuffer {
    fn byte_order_mark(&mut self) {
        if !self.has_begun {
            self.has_begun = true;
            self.push_separate(Bytes::from_static(&BOM).into());
        }
    }

    fn block(&mut self, block: Block) {
        // Drops an unterminated block before this one: clients discard such a block at the end of the stream (WHATWG HTML 9.2.6),
        // and here they would join it with this block.
        self.tail = None;
        if block.is_terminated() {
            self.push_separate(block.into_slice());
        } else {
            self.tail = Some(block.into_raw());
        }
    }

    #[inline(always)]
    fn extend(&mut self, block: &Block) -> bool {
        let follows = block.is_terminated()
            && self.tail.is_none()
            && self
                .span
                .as_mut()
                .is_some_and(|span| span.extend(block.slice()));
        if follows {
            self.waiting += max(block.slice().len(), MIN_BLOCK_COST);
        }
        follows
    }

    fn split_line_feed(&mut self) {
        self.push_separate(Bytes::from_static(b"\n").into());
    }

    fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    fn is_full(&self) -> bool {
        self.waiting >= MAX_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Item};

    fn blocks(chunk: &Bytes) -> Vec<Block> {
        let mut decoder = Decoder::default();
        decoder.push(chunk.clone());
        let mut blocks = Vec::new();
        while let Some(item) = decoder.next_item().unwrap().or_else(|| decoder.finish()) {
            match item {
                Item::Event(event) => blocks.push(event.into_block()),
                Item::Block(block) => blocks.push(block),
                _ => {}
            }
        }
        blocks
    }

    fn add(sink: &mut FrameBuffer, block: Block) {
        if !sink.extend(&block) {
            sink.block(block);
        }
    }

    fn frames(of: &mut FrameBuffer) -> Vec<Bytes> {
        std::iter::from_fn(|| of.next()).collect()
    }

    #[test]
    fn neighbours_leave_as_one_slice_of_their_chunk() {
        let whole = "data: 1\n\ndata: 2\n\n: c\ndata: 3\n\n".repeat(200);
        let chunk = Bytes::from(format!("{whole}data: half"));
        let mut sink = FrameBuffer::default();
        for block in blocks(&chunk) {
            add(&mut sink, block);
        }
        let out = frames(&mut sink);
        assert_eq!(out, [whole]);
        assert_eq!(out[0].as_ptr(), chunk.as_ptr());
        sink.finish();
        assert_eq!(frames(&mut sink), ["data: half"]);
    }

    #[test]
    fn small_blocks_of_several_chunks_are_copied_and_large_ones_are_not() {
        let mut sink = FrameBuffer::default();
        let large = Bytes::from(format!("data: {}\n\n", "x".repeat(LARGE)));
        for chunk in [
            "data: 1\n\n".into(),
            "data: 2\n\n".into(),
            large.clone(),
            "data: 3\n\n".into(),
        ] {
            blocks(&chunk).into_iter().for_each(|b| add(&mut sink, b));
        }
        let out = frames(&mut sink);
        assert_eq!(out[0], "data: 1\n\ndata: 2\n\n");
        assert_eq!(out[1].as_ptr(), large.as_ptr());
        assert_eq!(out[2], "data: 3\n\n");
        assert_eq!(out.len(), 3);
        assert_eq!(
            sink.copy.capacity(),
            0,
            "an idle buffer has no spare capacity"
        );
    }

    #[test]
    fn large_span_between_single_blocks_is_not_copied() {
        let mut sink = FrameBuffer::default();
        let many = Bytes::from("data: 2\n\n".repeat(LARGE / 8));
        for chunk in ["data: 1\n\n".into(), many.clone(), "data: 3\n\n".into()] {
            blocks(&chunk).into_iter().for_each(|b| add(&mut sink, b));
        }
        let out = frames(&mut sink);
        assert_eq!(out, [&b"data: 1\n\n"[..], &many, b"data: 3\n\n"]);
        assert_eq!(out[1].as_ptr(), many.as_ptr());
    }

    #[test]
    fn small_part_of_a_large_chunk_is_copied() {
        for (allowed, denied) in [(1, 1 << 20), (1, 16), (16 << 10, 1 << 20)] {
            let (allowed, denied) = ("a".repeat(allowed), "d".repeat(denied));
            let chunk = Bytes::from(format!("data: {allowed}\n\ndata: {denied}\n\n"));
            let mut sink = FrameBuffer::default();
            add(&mut sink, blocks(&chunk).swap_remove(0));
            let out = frames(&mut sink);
            assert_eq!(out, [format!("data: {allowed}\n\n")]);
            assert_ne!(out[0].as_ptr(), chunk.as_ptr());
        }
    }

    #[test]
    fn unterminated_block_is_dropped_if_a_block_follows() {
        let tail = Bytes::from_static(b"data: half");
        let mut sink = FrameBuffer::default();
        blocks(&tail).into_iter().for_each(|b| add(&mut sink, b));
        add(&mut sink, crate::Event::new("after").into());
        sink.finish();
        assert_eq!(frames(&mut sink), ["data: after\n\n"]);
    }

    #[test]
    fn text_at_the_start_does_not_become_a_byte_order_mark() {
        let chunk = Bytes::from("data: 1\n\n\u{feff}data: unknown field\n\n");
        let mut sink = FrameBuffer::default();
        add(&mut sink, blocks(&chunk).pop().unwrap());
        sink.byte_order_mark();
        assert_eq!(frames(&mut sink), [":\n\n\u{feff}data: unknown field\n\n"]);
    }
}
