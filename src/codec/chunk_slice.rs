//! The bytes of a block, as a slice of the chunk that contains them.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use bytes::{Buf, Bytes};

use crate::codec::{chunk::Chunk, utf8::lossy};

/// The range of a block in its chunk, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A range of a chunk. It keeps all of the chunk allocated.
///
/// It holds an `Arc` of the chunk instead of a `Bytes` slice because this makes blocks cheap: to slice and to drop `Bytes` costs an
/// atomic operation each, while the `Arc` of a block can be [recycled](super::Decoder::recycle) for the next block.
#[derive(Clone)]
#[repr(C)] // See `Block`.
pub(crate) struct ChunkSlice {
    pub(super) span: Span,
    pub(super) chunk: Arc<Chunk>,
}

impl ChunkSlice {
    /// Slices below this size in bytes are copied rather than stored together with their chunk.
    const SMALL: usize = 4 << 10;

    /// The memory of a chunk in addition to its bytes, in bytes.
    pub(crate) const CHUNK_OVERHEAD: usize = size_of::<Chunk>() + 2 * size_of::<usize>();

    /// Makes a chunk of these bytes. Returns all of it, and whether it is well-formed UTF-8.
    pub(super) fn checked(bytes: Bytes) -> (Self, bool) {
        let (chunk, well_formed) = Chunk::checked(bytes, 0);
        let all = well_formed == chunk.len();
        (Self::whole(chunk), all)
    }

    fn whole(chunk: Chunk) -> Self {
        let (start, end) = (0, chunk.len());
        Self {
            span: Span { start, end },
            chunk: Arc::new(chunk),
        }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.chunk[self.span.start..self.span.end]
    }

    /// The length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.span.end - self.span.start
    }

    /// Whether the slice keeps much more memory allocated than its own size: it is less than a quarter of its chunk, or smaller
    /// than 4 KiB (a chunk may itself be a part of a larger buffer).
    pub(crate) fn is_small_part(&self) -> bool {
        self.len() < Self::SMALL || self.chunk.len() / 4 > self.len()
    }

    /// Whether the slice is the whole chunk.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.len() == self.chunk.len()
    }

    /// Copies the bytes out of the chunk if the slice is a [small part](Self::is_small_part) of it.
    pub(super) fn into_owned(self) -> Self {
        if self.is_small_part() {
            Bytes::copy_from_slice(self.bytes()).into()
        } else {
            self
        }
    }

    /// The slice of this range. Offsets count from the start of this slice.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        let span = Span {
            start: self.span.start + range.start,
            end: self.span.start + range.end,
        };
        let chunk = Arc::clone(&self.chunk);
        Self { span, chunk }
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        self.chunk.slice(self.span.start..self.span.end)
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        let Self { span, chunk } = self;
        let mut bytes = match Arc::try_unwrap(chunk) {
            Ok(chunk) => chunk.into(),
            Err(chunk) => Bytes::clone(&chunk),
        };
        bytes.truncate(span.end);
        bytes.advance(span.start);
        bytes
    }

    /// The text that a client reads in this range. Offsets count from the start of this slice. Ill-formed UTF-8 reads as U+FFFD.
    #[inline]
    pub(super) fn text(&self, range: Range<usize>) -> Cow<'_, str> {
        let in_chunk = self.span.start + range.start..self.span.start + range.end;
        match self.chunk.text(in_chunk) {
            Some(text) => Cow::Borrowed(text),
            None => self.unchecked_text(range),
        }
    }

    /// The same for bytes that have not been checked.
    #[inline(never)]
    fn unchecked_text(&self, range: Range<usize>) -> Cow<'_, str> {
        lossy(&self.bytes()[range])
    }

    /// Extends the slice by `next` if `next` follows directly in the same chunk. Returns whether it does.
    #[inline]
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        let follows = self.span.end == next.span.start && Arc::ptr_eq(&self.chunk, &next.chunk);
        if follows {
            self.span.end = next.span.end;
        }
        follows
    }
}

impl ChunkSlice {
    /// Splits a chunk into consecutive slices that end at these offsets.
    pub(crate) fn split_at_ends(
        chunk: Bytes,
        ends: impl IntoIterator<Item = usize>,
    ) -> impl Iterator<Item = Self> {
        let chunk = Arc::new(Chunk::new(chunk));
        let mut start = 0;
        ends.into_iter().map(move |end| {
            let span = Span { start, end };
            start = end;
            let chunk = Arc::clone(&chunk);
            Self { span, chunk }
        })
    }
}

impl From<Bytes> for ChunkSlice {
    fn from(bytes: Bytes) -> Self {
        Self::whole(Chunk::new(bytes))
    }
}

impl fmt::Debug for ChunkSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSlice")
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_part_is_below_4_kib_or_a_quarter_of_its_chunk() {
        let slice_of = |len: usize, chunk: usize| {
            let span = Span {
                start: 1,
                end: 1 + len,
            };
            let chunk = Arc::new(Chunk::new(vec![b'x'; chunk].into()));
            ChunkSlice { span, chunk }
        };
        assert!(slice_of(4095, 4096).is_small_part());
        assert!(!slice_of(4096, 4097).is_small_part());
        assert!(!slice_of(5000, 20_003).is_small_part());
        assert!(slice_of(5000, 20_004).is_small_part());
        let owned = slice_of(5000, 20_004).into_owned();
        assert_eq!((owned.len(), owned.chunk.len()), (5000, 5000));
        assert_eq!(slice_of(4096, 4097).into_owned().chunk.len(), 4097);
    }

    #[test]
    fn extend_accepts_only_the_next_slice_of_the_same_chunk() {
        let chunk = |text: &'static [u8]| Arc::new(Chunk::new(text.into()));
        let (one, other) = (chunk(b"abcdef"), chunk(b"abcdef"));
        let slice_of = |chunk: &Arc<Chunk>, start, end| ChunkSlice {
            span: Span { start, end },
            chunk: Arc::clone(chunk),
        };
        let mut slice = slice_of(&one, 0, 2);
        assert!(!slice.extend(&slice_of(&one, 3, 4)));
        assert!(!slice.extend(&slice_of(&other, 2, 4)));
        assert_eq!(slice.bytes(), b"ab");
        assert!(slice.extend(&slice_of(&one, 2, 4)));
        assert_eq!(slice.bytes(), b"abcd");
        assert!(!slice.is_whole() && slice_of(&one, 0, 6).is_whole());
    }
}
