//! The bytes of a block: a part of the chunk it came in.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use bytes::{Buf, Bytes};

use crate::codec::{chunk::Chunk, text::lossy};

/// Where a block stands in its chunk, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A part of a chunk, which keeps all of it.
///
/// That it keeps the chunk and not a slice of it is what makes a block cheap: to slice and to let go are an atomic
/// operation each, while a chunk that was lent can be [given back](super::Decoder::recycle) and lent again.
#[derive(Clone)]
#[repr(C)] // See `Block`.
pub(crate) struct ChunkSlice {
    pub(super) span: Span,
    pub(super) chunk: Arc<Chunk>,
}

impl ChunkSlice {
    const SMALL: usize = 4 << 10;

    /// The memory of a chunk beside its bytes.
    pub(crate) const CHUNK_OVERHEAD: usize = size_of::<Chunk>() + 2 * size_of::<usize>();

    /// Bytes in a chunk of their own, and whether they are well-formed UTF-8.
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

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.span.end - self.span.start
    }

    /// Whether much more is kept than is here. Chunks themselves may be parts of a larger buffer, so what is small is
    /// always thought to be a small part.
    pub(crate) fn is_small_part(&self) -> bool {
        self.len() < Self::SMALL || self.chunk.len() / 4 > self.len()
    }

    /// Whether this is all of its chunk.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        self.len() == self.chunk.len()
    }

    /// The same bytes in a buffer of their own, if the one they are in is much larger.
    pub(super) fn into_owned(self) -> Self {
        if self.is_small_part() {
            Bytes::copy_from_slice(self.bytes()).into()
        } else {
            self
        }
    }

    /// This part of it.
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

    /// A part, as the text that a client reads in it.
    #[inline]
    pub(super) fn text(&self, part: Range<usize>) -> Cow<'_, str> {
        let in_chunk = self.span.start + part.start..self.span.start + part.end;
        match self.chunk.text(in_chunk) {
            Some(text) => Cow::Borrowed(text),
            None => self.unchecked_text(part),
        }
    }

    /// The same where nobody has looked yet whether it is text.
    #[inline(never)]
    fn unchecked_text(&self, part: Range<usize>) -> Cow<'_, str> {
        lossy(&self.bytes()[part])
    }

    /// Takes in what stands right behind this in the same chunk. Says whether it does.
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
    /// The parts of a chunk that end there.
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
    fn what_is_small_for_its_chunk_or_at_all_is_a_small_part() {
        let part = |len: usize, chunk: usize| {
            let span = Span {
                start: 1,
                end: 1 + len,
            };
            let chunk = Arc::new(Chunk::new(vec![b'x'; chunk].into()));
            ChunkSlice { span, chunk }
        };
        assert!(part(4095, 4096).is_small_part());
        assert!(!part(4096, 4097).is_small_part());
        assert!(!part(5000, 20_003).is_small_part());
        assert!(part(5000, 20_004).is_small_part());
        let detached = part(5000, 20_004).into_owned();
        assert_eq!((detached.len(), detached.chunk.len()), (5000, 5000));
        assert_eq!(part(4096, 4097).into_owned().chunk.len(), 4097);
    }

    #[test]
    fn only_what_stands_right_behind_in_the_same_chunk_is_taken_in() {
        let chunk = |text: &'static [u8]| Arc::new(Chunk::new(text.into()));
        let (one, other) = (chunk(b"abcdef"), chunk(b"abcdef"));
        let part = |chunk: &Arc<Chunk>, start, end| ChunkSlice {
            span: Span { start, end },
            chunk: Arc::clone(chunk),
        };
        let mut raw = part(&one, 0, 2);
        assert!(!raw.extend(&part(&one, 3, 4)));
        assert!(!raw.extend(&part(&other, 2, 4)));
        assert_eq!(raw.bytes(), b"ab");
        assert!(raw.extend(&part(&one, 2, 4)));
        assert_eq!(raw.bytes(), b"abcd");
        assert!(!raw.is_whole() && part(&one, 0, 6).is_whole());
    }
}
