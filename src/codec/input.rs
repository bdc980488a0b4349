//! The chunk that is being decoded.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ahead::{Ahead, Cut},
    block::Block,
    chunk::Chunk,
    raw::{Place, Raw},
    shape::Shape,
};

/// Input that is not taken yet, and the blocks in it.
#[derive(Default)]
pub(super) struct Input {
    /// Let go with its last byte, so that nothing keeps a chunk but the blocks in it.
    chunk: Current,
    /// The same once more, to lend to the next block.
    spare: Option<Arc<Chunk>>,
    /// So much of the chunk is taken.
    taken: usize,
    /// So much of it is known to be well-formed UTF-8.
    well_formed: usize,
    ahead: Ahead,
}

/// A chunk is shared only once there is a block in it: most chunks of a stream that drips have none.
#[derive(Default)]
enum Current {
    #[default]
    Nothing,
    Alone(Chunk),
    Shared(Arc<Chunk>),
}

impl Current {
    #[inline(always)]
    fn get(&self) -> Option<&Chunk> {
        match self {
            Current::Nothing => None,
            Current::Alone(chunk) => Some(chunk),
            Current::Shared(chunk) => Some(chunk),
        }
    }

    #[cold]
    fn share(&mut self) -> Option<&Arc<Chunk>> {
        if let Current::Alone(chunk) = std::mem::take(self) {
            *self = Current::Shared(Arc::new(chunk));
        }
        match self {
            Current::Shared(chunk) => Some(chunk),
            _ => None,
        }
    }
}

impl Input {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.chunk, Current::Nothing)
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
        let (chunk, well_formed) = if check_utf8 {
            Chunk::checked(chunk)
        } else {
            (Chunk::new(chunk), 0)
        };
        (self.chunk, self.well_formed) = (Current::Alone(chunk), well_formed);
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
        self.chunk = Current::Nothing;
        self.spare = None;
        self.taken = 0;
        self.ahead.clear();
    }

    /// Takes the next block, if there is nothing special about it. Only where a block begins.
    #[inline(always)]
    pub(super) fn next_block(&mut self, limit: usize) -> Option<Block> {
        if self.ahead.is_empty() {
            let chunk = self.chunk.get()?;
            self.ahead.look(chunk, self.taken, limit, self.well_formed);
        }
        let Cut { shape, place } = self.ahead.next()?;
        let chunk = self.lend(place.end)?;
        let raw = Raw { place, chunk };
        Some(Block { shape, raw })
    }

    /// Takes a block of this size, of which is known what is in it.
    pub(super) fn take_block(&mut self, size: usize, mut shape: Shape) -> Option<Block> {
        let (start, end) = (self.taken, self.taken + size);
        shape.set_well_formed(end <= self.well_formed);
        let place = Place { start, end };
        let chunk = self.lend(end)?;
        let raw = Raw { place, chunk };
        Some(Block { shape, raw })
    }

    /// The chunk, for a block that ends there.
    #[inline(always)]
    fn lend(&mut self, end: usize) -> Option<Arc<Chunk>> {
        self.taken = end;
        let chunk = match &self.chunk {
            Current::Shared(chunk) => chunk,
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
    pub(super) fn give_back(&mut self, block: Block) {
        if let Current::Shared(chunk) = &self.chunk
            && self.spare.is_none()
            && Arc::ptr_eq(chunk, &block.raw.chunk)
        {
            self.spare = Some(block.raw.chunk);
        }
    }
}
