//! The chunk that the decoder reads.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    block::Block,
    block_meta::BlockMeta,
    chunk::Chunk,
    chunk_slice::{ChunkSlice, Span},
    lookahead::{BlockSpan, Lookahead, Unfinished},
};

/// The rest of the input, and the next blocks in it.
#[derive(Default)]
#[repr(C)] // See `Stream`.
pub(super) struct Input {
    /// Dropped when its last byte is taken, so that only the blocks in it keep a chunk allocated.
    chunk: CurrentChunk,
    /// How many bytes of the chunk have been taken.
    taken: usize,
    /// Whether to check the UTF-8 of the chunk when its first block is found. Cleared by the check.
    check_utf8: bool,
    /// The offset up to which the chunk is known to be well-formed UTF-8.
    well_formed: usize,
    /// A reference to the chunk from a recycled block, for the next block.
    spare: Option<Arc<Chunk>>,
    lookahead: Lookahead,
}

/// The current chunk. It moves into an `Arc` when its first block is found: if a stream arrives in small chunks, most chunks have
/// no block.
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
}

impl Input {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.chunk, CurrentChunk::Empty)
    }

    /// The bytes that have not been taken.
    #[inline]
    pub(super) fn rest(&self) -> &[u8] {
        match self.chunk.get() {
            Some(chunk) => &chunk[self.taken..],
            None => &[],
        }
    }

    /// Adds a chunk. If bytes of the last chunk are left, both are copied together.
    pub(super) fn push(&mut self, chunk: Bytes, check_utf8: bool) {
        let chunk = if self.is_empty() {
            chunk
        } else {
            let joined = [self.rest(), &chunk[..]].concat();
            self.clear();
            joined.into()
        };
        if chunk.is_empty() {
            return;
        }
        self.chunk = CurrentChunk::Unshared(Chunk::new(chunk));
        (self.check_utf8, self.well_formed) = (check_utf8, 0);
    }

    /// Skips `taken` bytes.
    #[inline]
    pub(super) fn advance(&mut self, taken: usize) {
        self.taken += taken;
        if self.rest().is_empty() {
            self.clear();
        }
    }

    /// Drops the rest of the input.
    pub(super) fn clear(&mut self) {
        self.take_chunk();
    }

    /// Takes the chunk, so that the input is empty.
    #[inline(always)]
    fn take_chunk(&mut self) -> CurrentChunk {
        self.spare = None;
        self.taken = 0;
        self.lookahead.clear();
        std::mem::take(&mut self.chunk)
    }

    /// Takes the next block if it is whole, within the limit, and does not end in a CR at the end of the chunk. A block must
    /// begin at the current position.
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

    /// Finds the next blocks.
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

    /// The facts about the rest of the input, if it is one block that does not end in this chunk.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        let next = self.lookahead.is_empty();
        self.lookahead.unfinished().filter(|_| next)
    }

    /// Takes a block of `size` bytes with these facts.
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

    /// Checks the UTF-8 of the chunk from the current position on. The bytes before it belong to a block that began in an earlier
    /// chunk: they may start in the middle of a character, and are checked together with that block.
    #[inline(never)]
    fn check(&mut self) {
        self.check_utf8 = false;
        if let CurrentChunk::Unshared(chunk) = &mut self.chunk {
            self.well_formed = chunk.check(self.taken);
        }
    }

    /// Takes the bytes up to the offset `end`. Returns a reference to the chunk for the block that ends there.
    #[inline(always)]
    fn lend(&mut self, end: usize) -> Option<Arc<Chunk>> {
        let CurrentChunk::Shared(chunk) = &self.chunk else {
            return self.lend_first(end);
        };
        if end < chunk.len() {
            self.taken = end;
            let spare = self.spare.take();
            return Some(spare.unwrap_or_else(|| Arc::clone(chunk)));
        }
        match self.take_chunk() {
            CurrentChunk::Shared(last) => Some(last),
            _ => None,
        }
    }

    /// The same for the first block of a chunk: moves the chunk into an `Arc`. Returns `None` if there is no chunk.
    #[inline(never)]
    fn lend_first(&mut self, end: usize) -> Option<Arc<Chunk>> {
        let CurrentChunk::Unshared(chunk) = std::mem::take(&mut self.chunk) else {
            return None;
        };
        let chunk = Arc::new(chunk);
        if end < chunk.len() {
            self.taken = end;
            self.chunk = CurrentChunk::Shared(Arc::clone(&chunk));
        } else {
            self.take_chunk();
        }
        Some(chunk)
    }

    /// Takes back a block that is no longer needed. If it is from the current chunk, its reference serves the next block.
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
    fn recycled_reference_serves_the_next_block_of_the_same_chunk() {
        let mut input = Input::default();
        input.push("data: 1\n\ndata: 2\n\ndata: 3\n\n".into(), false);
        let shared = |block: &Block| Arc::strong_count(&block.slice.chunk);

        let first = input.next_whole_block(100).unwrap();
        let second = input.next_whole_block(100).unwrap();
        assert_eq!(shared(&first), 3);
        input.recycle(second);
        // One spare reference is enough.
        let copy = first.clone();
        input.recycle(copy);
        assert_eq!(shared(&first), 3);
        let third = input.next_whole_block(100).unwrap();
        assert!(input.is_empty() && input.rest().is_empty());
        assert_eq!(shared(&first), 2);
        assert_eq!(third.as_bytes(), b"data: 3\n\n");

        // A block of another chunk is not reused.
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
    fn chunk_without_a_block_is_not_shared() {
        let mut input = Input::default();
        input.push("data: half".into(), true);
        assert!(input.next_whole_block(100).is_none());
        assert!(matches!(input.chunk, CurrentChunk::Unshared(_)));
        assert_eq!(input.rest(), b"data: half");
        input.push(" and half".into(), true);
        assert_eq!(input.rest(), b"data: half and half");
    }

    #[test]
    fn utf8_is_checked_from_the_first_block_of_a_chunk() {
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
    fn blocks_before_the_first_ill_formed_byte_are_well_formed() {
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
