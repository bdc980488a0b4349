//! The chunk that is being decoded.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    block::Block,
    block_meta::BlockMeta,
    chunk::Chunk,
    chunk_slice::{ChunkSlice, Span},
    lookahead::{BlockSpan, Lookahead, Unfinished},
};

/// Input that is not taken yet, and the blocks in it.
#[derive(Default)]
#[repr(C)] // See `Stream`.
pub(super) struct Input {
    /// Let go with its last byte, so that nothing keeps a chunk but the blocks in it.
    chunk: CurrentChunk,
    /// So much of the chunk is taken.
    taken: usize,
    /// Whether to look for ill-formed UTF-8 in it, as soon as there is a block in it.
    check_utf8: bool,
    /// So much of it is known to be well-formed UTF-8.
    well_formed: usize,
    /// The chunk once more, to lend to the next block.
    spare: Option<Arc<Chunk>>,
    lookahead: Lookahead,
}

/// A chunk is shared only once there is a block in it: most chunks of a stream that drips have none.
#[derive(Default)]
enum CurrentChunk {
    #[default]
    Empty,
    Unshared(Chunk),
    Shared(Arc<Chunk>),
}

impl CurrentChunk {
    #[inline(always)]
    fn get(&self) -> Option<&Chunk> {
        match self {
            CurrentChunk::Empty => None,
            CurrentChunk::Unshared(chunk) => Some(chunk),
            CurrentChunk::Shared(chunk) => Some(chunk),
        }
    }

    #[cold]
    fn share(&mut self) -> Option<&Arc<Chunk>> {
        if let CurrentChunk::Unshared(chunk) = std::mem::take(self) {
            *self = CurrentChunk::Shared(Arc::new(chunk));
        }
        match self {
            CurrentChunk::Shared(chunk) => Some(chunk),
            _ => None,
        }
    }
}

impl Input {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.chunk, CurrentChunk::Empty)
    }

    /// What is not taken yet.
    #[inline]
    pub(super) fn rest(&self) -> &[u8] {
        match self.chunk.get() {
            Some(chunk) => &chunk[self.taken..],
            None => &[],
        }
    }

    /// Adds a chunk; with what is left of the last one it is copied together.
    pub(super) fn push(&mut self, chunk: Bytes, check_utf8: bool) {
        let chunk = if self.is_empty() {
            chunk
        } else {
            [self.rest(), &chunk[..]].concat().into()
        };
        self.clear();
        if chunk.is_empty() {
            return;
        }
        self.chunk = CurrentChunk::Unshared(Chunk::new(chunk));
        (self.check_utf8, self.well_formed) = (check_utf8, 0);
    }

    /// Passes over so many bytes.
    #[inline]
    pub(super) fn advance(&mut self, taken: usize) {
        self.taken += taken;
        if self.rest().is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.chunk = CurrentChunk::Empty;
        self.spare = None;
        self.taken = 0;
        self.lookahead.clear();
    }

    /// Takes the next block, if there is nothing special about it. Only where a block begins.
    #[inline(always)]
    pub(super) fn next_whole_block(&mut self, limit: usize) -> Option<Block> {
        if self.lookahead.is_empty() {
            self.look_ahead(limit);
        }
        let BlockSpan { meta, span } = self.lookahead.next()?;
        let chunk = self.lend(span.end)?;
        let slice = ChunkSlice { span, chunk };
        Some(Block { meta, slice })
    }

    #[inline(always)]
    fn look_ahead(&mut self, limit: usize) {
        if self.lookahead.unfinished().is_some() {
            return;
        }
        let Some(chunk) = self.chunk.get() else {
            return;
        };
        (self.lookahead).search(chunk, self.taken, limit, self.well_formed);
        if self.check_utf8 && !self.lookahead.is_empty() {
            self.check();
            self.lookahead.set_well_formed(self.well_formed);
        }
    }

    /// What is left, if it is known to be a block that does not end in this chunk.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        let next = self.lookahead.is_empty();
        self.lookahead.unfinished().filter(|_| next)
    }

    /// Takes a block of this size, of which is known what is in it.
    pub(super) fn take_block(&mut self, size: usize, mut meta: BlockMeta) -> Option<Block> {
        if self.check_utf8 {
            self.check();
        }
        let (start, end) = (self.taken, self.taken + size);
        meta.set_well_formed(end <= self.well_formed);
        let span = Span { start, end };
        let chunk = self.lend(end)?;
        let slice = ChunkSlice { span, chunk };
        Some(Block { meta, slice })
    }

    /// Looks for ill-formed UTF-8 in the chunk, from the first block in it on: what belongs to an earlier one may begin in
    /// the middle of a character, and is looked at together with that.
    #[inline(never)]
    fn check(&mut self) {
        self.check_utf8 = false;
        if let CurrentChunk::Unshared(chunk) = std::mem::take(&mut self.chunk) {
            let (chunk, well_formed) = Chunk::checked(chunk.into(), self.taken);
            (self.chunk, self.well_formed) = (CurrentChunk::Unshared(chunk), well_formed);
        }
    }

    /// The chunk, for a block that ends there.
    #[inline(always)]
    fn lend(&mut self, end: usize) -> Option<Arc<Chunk>> {
        self.taken = end;
        let chunk = match &self.chunk {
            CurrentChunk::Shared(chunk) => chunk,
            _ => self.chunk.share()?,
        };
        if end == chunk.len() {
            let last = Arc::clone(chunk);
            self.clear();
            return Some(last);
        }
        let spare = self.spare.take();
        Some(spare.unwrap_or_else(|| Arc::clone(chunk)))
    }

    /// Takes back a block that is needed no more. The chunk that it shares serves the next one, if that is in the same.
    #[inline(always)]
    pub(super) fn recycle(&mut self, block: Block) {
        if let CurrentChunk::Shared(chunk) = &self.chunk
            && self.spare.is_none()
            && Arc::ptr_eq(chunk, &block.slice.chunk)
        {
            self.spare = Some(block.slice.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_given_back_is_lent_again_and_nobody_keeps_it_in_the_end() {
        let mut input = Input::default();
        input.push("data: 1\n\ndata: 2\n\ndata: 3\n\n".into(), false);
        let shared = |block: &Block| Arc::strong_count(&block.slice.chunk);

        let first = input.next_whole_block(100).unwrap();
        let second = input.next_whole_block(100).unwrap();
        assert_eq!(shared(&first), 3);
        input.recycle(second);
        // One span is enough.
        let copy = first.clone();
        input.recycle(copy);
        assert_eq!(shared(&first), 3);
        let third = input.next_whole_block(100).unwrap();
        assert!(input.is_empty() && input.rest().is_empty());
        assert_eq!(shared(&first), 2);
        assert_eq!(third.as_bytes(), b"data: 3\n\n");

        // Of another chunk it would be the wrong one.
        input.push("data: 4\n\ndata: 5\n\n".into(), false);
        input.recycle(third);
        assert_eq!(
            input.next_whole_block(100).unwrap().as_bytes(),
            b"data: 4\n\n"
        );
        input.recycle(first);
        assert_eq!(
            input.next_whole_block(100).unwrap().as_bytes(),
            b"data: 5\n\n"
        );
    }

    #[test]
    fn a_chunk_without_a_block_is_not_shared() {
        let mut input = Input::default();
        input.push("data: half".into(), true);
        assert!(input.next_whole_block(100).is_none());
        assert!(matches!(input.chunk, CurrentChunk::Unshared(_)));
        assert_eq!(input.rest(), b"data: half");
        input.push(" and half".into(), true);
        assert_eq!(input.rest(), b"data: half and half");
    }

    #[test]
    fn a_chunk_is_not_looked_at_for_text_before_there_is_a_block_in_it_nor_before_that_block() {
        let mut input = Input::default();
        let text = "x".repeat(2000);
        let chunk = Bytes::from(format!("\u{65e5}\n\ndata: {text}\n\n"));
        input.push(chunk.slice(1..), true);
        assert!(
            input
                .chunk
                .get()
                .is_some_and(|chunk| chunk.text(2..4).is_none())
        );
        input.advance(4);
        assert!(
            input
                .next_whole_block(9000)
                .is_some_and(|block| block.meta.is_well_formed())
        );

        input.push(format!("data: {text}").into(), true);
        assert!(input.next_whole_block(9000).is_none() && input.unfinished().is_some());
        assert!(
            input
                .chunk
                .get()
                .is_some_and(|chunk| chunk.text(2..4).is_none())
        );
    }

    #[test]
    fn a_block_is_known_to_be_text_as_far_as_its_chunk_is() {
        let mut input = Input::default();
        input.push((&b"data: 1\n\ndata: \xff\n\n"[..]).into(), true);
        assert!(input.next_whole_block(100).unwrap().meta.is_well_formed());
        assert!(!input.next_whole_block(100).unwrap().meta.is_well_formed());
        input.push((&b"data: 1\n\ndata: \xff\n\n"[..]).into(), true);
        assert!(
            input
                .take_block(9, BlockMeta::default())
                .unwrap()
                .meta
                .is_well_formed()
        );
        assert!(
            !input
                .take_block(9, BlockMeta::default())
                .unwrap()
                .meta
                .is_well_formed()
        );
    }
}
