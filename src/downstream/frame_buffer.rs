//! Blocks to frames: what is ready leaves together, and what nobody touched is not copied.

use std::{cmp::max, collections::VecDeque};

use bytes::{Bytes, BytesMut};

use crate::{
    codec::{BOM, Block, ChunkSlice},
    upstream::{byte_order_mark, sink::Sink},
};

/// What is handed out at once, at the most: so many bytes, in blocks that count for so many each at the least.
const MOST: usize = 256 << 10;
const LEAST: usize = 512;

/// A block of this size is worth a frame of its own rather than a copy.
const LARGE: usize = 8 << 10;

/// Collects blocks and hands them out in as few frames as it can.
///
/// Blocks that stood side by side in the upstream's buffer are one slice of it; others are copied together. A
/// server writes each frame by itself, so this is what makes a burst cheap.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    /// Complete frames, in order.
    ready: VecDeque<Bytes>,
    /// The frame in the making: a copy of blocks that stood apart ...
    copy: BytesMut,
    /// ... and behind it neighbouring blocks, as a part of the chunk they stand in.
    run: Option<ChunkSlice>,
    /// The unfinished rest of the stream. It can only be the last thing sent: whatever came after it would
    /// be read as part of it.
    tail: Option<Bytes>,
    /// How much waits to be handed out. (One number: two would be two to keep.)
    waiting: usize,
    /// Something has been sent or is about to be.
    begun: bool,
}

impl FrameBuffer {
    /// How much waits; the number grows with each block, until [`next`](Self::next) hands them out.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next frame, if anything waits.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() && !self.copy.is_empty() {
            self.flush_span();
            self.flush_copy();
        }
        // Mostly there are neighbours and nothing else, which need no queue.
        let next = self.ready.pop_front();
        let next = next.or_else(|| self.run.take().map(alone));
        if self.ready.is_empty() && self.run.is_none() && self.copy.is_empty() {
            self.waiting = 0;
        }
        next
    }

    /// The stream has ended: the unfinished rest may leave.
    pub(crate) fn finish(&mut self) {
        if let Some(tail) = self.tail.take() {
            self.push_separate(tail.into());
        }
    }

    /// Adds a comment of our own.
    pub(crate) fn keep_alive(&mut self, comment: Bytes) {
        self.push_separate(comment.into());
    }

    /// Adds blocks that are to leave as they are.
    pub(crate) fn push_span(&mut self, blocks: ChunkSlice) {
        self.push_separate(blocks);
    }

    /// Adds bytes that do not follow on the last ones in their chunk.
    fn push_separate(&mut self, raw: ChunkSlice) {
        self.waiting += max(raw.len(), LEAST);
        if !std::mem::replace(&mut self.begun, true)
            && (raw.bytes().starts_with(&BOM) || byte_order_mark::is_utf7(raw.bytes()))
        {
            // In the middle of the stream this was text; as a client's first bytes it would be a byte order
            // mark, and what the interceptors took for an unknown field would be another one.
            self.copy.extend_from_slice(b":\n\n");
        }
        self.flush_span();
        if !self.copy.is_empty() && raw.len() < LARGE && raw.is_whole() {
            // Nothing can follow on it in its chunk.
            self.copy.extend_from_slice(raw.bytes());
        } else {
            self.run = Some(raw);
        }
    }

    /// Puts the run where another one may follow it: into the copy, or, where it is worth it, into a frame of its own.
    fn flush_span(&mut self) {
        let Some(run) = self.run.take() else { return };
        // A server may keep a frame for long, and a small part of a chunk would keep all of it.
        if run.len() >= LARGE && !run.is_small_part() {
            self.flush_copy();
            self.ready.push_back(run.into_bytes());
            return;
        }
        if self.copy.is_empty() {
            // More will follow: room for a few, rather than to grow with each.
            self.copy.reserve(max(run.len(), LARGE.min(4 * run.len())));
        }
        self.copy.extend_from_slice(run.bytes());
    }

    fn flush_copy(&mut self) {
        if !self.copy.is_empty() {
            // All of it: what is left of its buffer would keep the whole, and the stream may be idle for long.
            self.ready
                .push_back(std::mem::take(&mut self.copy).freeze());
        }
    }
}

/// A run in a frame of its own.
fn alone(run: ChunkSlice) -> Bytes {
    if run.is_small_part() {
        Bytes::copy_from_slice(run.bytes())
    } else {
        run.into_bytes()
    }
}

impl Sink for FrameBuffer {
    fn byte_order_mark(&mut self) {
        if !self.begun {
            self.begun = true;
            self.push_separate(Bytes::from_static(&BOM).into());
        }
    }

    fn block(&mut self, block: Block) {
        // An unfinished block that something follows is dropped, as a client that reads on would do at the
        // end of the stream. It must not run into what follows.
        self.tail = None;
        if block.is_terminated() {
            self.push_separate(block.into_slice());
        } else {
            self.tail = Some(block.into_raw());
        }
    }

    /// Where it follows on the last one in their chunk.
    #[inline(always)]
    fn extend(&mut self, block: &Block) -> bool {
        let follows = block.is_terminated()
            && self.tail.is_none()
            && self
                .run
                .as_mut()
                .is_some_and(|run| run.extend(block.slice()));
        if follows {
            self.waiting += max(block.slice().len(), LEAST);
        }
        follows
    }

    fn split_line_feed(&mut self) {
        self.push_separate(Bytes::from_static(b"\n").into());
    }

    fn is_full(&self) -> bool {
        self.waiting >= MOST
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
        while let Some(piece) = decoder.next_item().unwrap().or_else(|| decoder.finish()) {
            match piece {
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
    fn neighbours_leave_as_one_slice_of_their_buffer() {
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
    fn blocks_of_several_buffers_leave_as_one_copy_and_large_ones_uncopied() {
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
        assert_eq!(sink.copy.capacity(), 0, "is kept while nothing is sent");
    }

    #[test]
    fn a_block_that_stands_apart_does_not_make_its_neighbours_be_copied() {
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
    fn a_small_frame_does_not_keep_a_large_buffer() {
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
    fn an_unfinished_block_is_dropped_if_anything_follows_it() {
        let tail = Bytes::from_static(b"data: half");
        let mut sink = FrameBuffer::default();
        blocks(&tail).into_iter().for_each(|b| add(&mut sink, b));
        add(&mut sink, crate::Event::new("after").into());
        sink.finish();
        assert_eq!(frames(&mut sink), ["data: after\n\n"]);
    }

    #[test]
    fn text_never_becomes_a_byte_order_mark() {
        let chunk = Bytes::from("data: 1\n\n\u{feff}data: unknown field\n\n");
        let mut sink = FrameBuffer::default();
        add(&mut sink, blocks(&chunk).pop().unwrap());
        sink.byte_order_mark();
        assert_eq!(frames(&mut sink), [":\n\n\u{feff}data: unknown field\n\n"]);
    }
}
