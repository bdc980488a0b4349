//! The incremental decoder: bytes in, blocks out.

use std::fmt;

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use memchr::memchr2;

use super::{
    block::Block,
    event::Event,
    lines::{line_end_len, stands_alone},
    piece::{BOM, LateLineFeed, Piece, TooLarge},
    shape::{OpenEnd, Shape},
    text::Raw,
};

/// Cuts an event stream into [`Piece`]s, whatever chunks it arrives in.
///
/// The decoder does no I/O and has no clock. It looks at every byte once, so a stream dripped byte by byte
/// costs as much as the same stream whole; it copies only a block that crosses chunks; and it keeps at most
/// one unfinished block, which is bounded. Joined together, the pieces are the input, byte for byte.
///
/// A block is handed out as soon as the standard lets a client dispatch it: after the CR of a blank line,
/// without waiting for an LF that may or may not come (WHATWG HTML 9.2.5).
///
/// ```
/// use tower_sse_proxy::codec::{Decoder, Piece};
///
/// let mut decoder = Decoder::default();
/// decoder.push(": hi\ndata: on".into());
///
/// // A comment stands by itself as soon as its line ends ...
/// assert!(matches!(decoder.next_piece()?, Some(Piece::Block(b)) if b.raw() == ": hi\n"));
/// // ... an event needs its blank line.
/// assert!(decoder.next_piece()?.is_none());
/// decoder.push("e\n\ndata: tail".into());
/// assert!(matches!(decoder.next_piece()?, Some(Piece::Event(e)) if e.data() == "one"));
/// assert!(decoder.next_piece()?.is_none());
///
/// // What is left at the end was never complete.
/// let Some(Piece::Event(tail)) = decoder.finish() else { panic!() };
/// assert!(!tail.is_terminated());
/// # Ok::<(), tower_sse_proxy::codec::TooLarge>(())
/// ```
pub struct Decoder {
    limit: usize,
    overflow: Overflow,
    /// Input not yet taken.
    chunk: Bytes,
    /// Whether to look for ill-formed UTF-8.
    check_utf8: bool,
    /// The chunk that the input is the rest of, if it is ASCII: then its blocks are text.
    text: ByteString,
    /// So much of the input is known to be well-formed.
    well_formed: usize,
    /// The beginning of a block whose end has not come yet; searched already, all of it.
    carry: Vec<u8>,
    /// The size of the last block that crossed chunks.
    last_carried: usize,
    /// Where the line that is being read begins, counted from the beginning of its block.
    line: usize,
    shape: Shape,
    at: At,
    /// The name of the last piece that ended in a CR at the end of the input.
    open_end: OpenEnd,
}

/// What to do with a block that is larger than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The stream is over: [`TooLarge`]. Nobody mistakes the rest for the whole.
    #[default]
    Fail,
    /// That block is dropped, unseen by anyone, and the stream goes on with the next one.
    Discard,
}

/// Shows where it is, never the text.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("limit", &self.limit)
            .field("overflow", &self.overflow)
            .field("input", &self.chunk.len())
            .field("unfinished", &self.carry.len())
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first byte: a BOM may come.
    Start,
    /// In a block, or before one.
    Block,
    /// After a CR in a block: an LF would belong to it.
    InnerCr,
    /// After a CR that ended a piece: an LF would belong to that piece.
    OuterCr,
    /// In a block that is being discarded.
    Discard {
        /// It ends with this line, not with a blank one.
        one_line: bool,
        /// The line so far is blank.
        blank: bool,
    },
    /// After a CR inside a block that is being discarded.
    DiscardCr,
    /// After a CR that ended a discarded block.
    DiscardedCr,
    /// Too large a block has ended the stream.
    Failed,
}

impl Default for Decoder {
    /// A decoder with the default limit of 16 MiB a block.
    fn default() -> Self {
        Self::new(Self::DEFAULT_LIMIT)
    }
}

impl Decoder {
    /// 16 MiB: above what real streams carry, below what hurts.
    pub const DEFAULT_LIMIT: usize = 16 << 20;

    /// A decoder that holds at most `limit` bytes of an unfinished block. Every byte counts, field names and
    /// line ends too, except an LF that follows the last CR. A limit below 16 bytes is one of 16, and one above 4 GiB one of 4 GiB.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.clamp(16, u32::MAX as usize - 2),
            overflow: Overflow::Fail,
            chunk: Bytes::new(),
            check_utf8: false,
            text: ByteString::new(),
            well_formed: 0,
            carry: Vec::new(),
            last_carried: 0,
            line: 0,
            shape: Shape::default(),
            at: At::Start,
            open_end: OpenEnd::FIRST,
        }
    }

    /// Says what happens to a block above the limit; [`Overflow::Fail`] unless set.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Looks for ill-formed UTF-8 a chunk at a time, which is cheaper than a block at a time, for blocks that
    /// will be asked for their text.
    pub(crate) fn check_utf8(mut self, check: bool) -> Self {
        self.check_utf8 = check;
        self
    }

    /// Hands in the next bytes. Take the pieces with [`next_piece`](Self::next_piece) before the next call:
    /// input that is still waiting is copied together with the new.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else if !chunk.is_empty() {
            self.chunk = [&self.chunk[..], &chunk[..]].concat().into();
        }
        if self.check_utf8 {
            self.check_chunk();
        }
    }

    /// Text in other languages than English is checked with simdutf8, but that cannot be kept as text.
    fn check_chunk(&mut self) {
        (self.text, self.well_formed) = if !is_ascii(&self.chunk) {
            (ByteString::new(), well_formed(&self.chunk))
        } else if let Ok(text) = ByteString::try_from(self.chunk.clone()) {
            (text, self.chunk.len())
        } else {
            (ByteString::new(), 0)
        };
    }

    /// The next piece, or `None` when more input is needed.
    ///
    /// # Errors
    /// [`TooLarge`], once; the decoder then takes no more input and has no more pieces.
    #[inline(always)]
    pub fn next_piece(&mut self) -> Result<Option<Piece>, TooLarge> {
        while !self.chunk.is_empty() {
            match self.at {
                At::Start => {
                    if let Some(bom) = self.start() {
                        return Ok(Some(bom));
                    }
                }
                At::Block => {
                    let piece = if self.carry.is_empty() {
                        self.block()?
                    } else {
                        self.carried_block()?
                    };
                    if piece.is_some() {
                        return Ok(piece);
                    }
                }
                At::InnerCr => {
                    self.at = At::Block;
                    if self.take_line_feed() {
                        self.carry.push(b'\n');
                        self.line += 1;
                        self.check_carry()?;
                    }
                }
                At::OuterCr => {
                    self.at = At::Block;
                    if self.take_line_feed() {
                        return Ok(Some(Piece::LateLineFeed(LateLineFeed(self.open_end))));
                    }
                }
                At::Discard { one_line, blank } => self.discard(one_line, blank),
                At::DiscardCr => {
                    self.take_line_feed();
                    self.at = At::Discard {
                        one_line: false,
                        blank: true,
                    };
                }
                At::DiscardedCr => {
                    self.take_line_feed();
                    self.at = At::Block;
                }
                At::Failed => drop(self.take_chunk()),
            }
        }
        Ok(None)
    }

    /// Ends the input: what is left of an unfinished block, if anything is. The decoder is empty afterwards.
    ///
    /// Clients that follow the standard discard it (WHATWG HTML 9.2.6, end of file); it must never be
    /// completed, only passed on as it is or dropped.
    pub fn finish(&mut self) -> Option<Piece> {
        if self.carry.is_empty() {
            return None;
        }
        let raw = std::mem::take(&mut self.carry);
        let mut shape = std::mem::take(&mut self.shape);
        shape.note(&raw[self.line..], self.line);
        self.line = 0;
        shape.set_terminated(false);
        Some(piece(Raw::Bytes(raw.into()), shape))
    }

    /// The start of the stream: a BOM is a piece of its own, also when its bytes arrive one by one.
    fn start(&mut self) -> Option<Piece> {
        while let Some(&byte) = self.chunk.first() {
            if byte != BOM[self.carry.len()] {
                self.at = At::Block;
                return None;
            }
            self.carry.push(byte);
            self.advance(1);
            if self.carry.len() == BOM.len() {
                self.carry.clear();
                self.at = At::Block;
                return Some(Piece::Bom);
            }
        }
        None
    }

    /// Reads on in a block until it is complete or the input is used up.
    #[inline(always)]
    fn block(&mut self) -> Result<Option<Piece>, TooLarge> {
        let mut searched = 0;
        while let Some(found) = memchr2(b'\n', b'\r', &self.chunk[searched..]) {
            let end = searched + found;
            searched = end + line_end_len(&self.chunk[end..]);
            let line = &self.chunk[self.line..end];
            if ends_piece(line, self.line) {
                return self.emit_from_chunk(searched, end + 1);
            }
            self.shape.note(line, self.line);
            self.line = searched;
            // The blank line is usually next: no search for what is in sight.
            if self.chunk.get(searched) == Some(&b'\n') {
                return self.emit_from_chunk(searched + 1, searched + 1);
            }
        }
        // A block in the making outlives its chunk: a copy, so that the chunk's buffer is free.
        let chunk = self.take_chunk();
        if chunk.len() >= self.last_carried / 8 {
            // Streams of large events have more of them: make room once rather than grow.
            self.carry.reserve(self.last_carried.max(chunk.len()));
        }
        self.carry.extend_from_slice(&chunk);
        self.check_carry()?;
        Ok(None)
    }

    /// The same for a block that began in an earlier chunk.
    fn carried_block(&mut self) -> Result<Option<Piece>, TooLarge> {
        while let Some(found) = memchr2(b'\n', b'\r', &self.chunk) {
            let end = self.carry.len() + found;
            let taken = found + line_end_len(&self.chunk[found..]);
            self.carry.extend_from_slice(&self.chunk[..taken]);
            self.advance(taken);
            let line = &self.carry[self.line..end];
            if ends_piece(line, self.line) {
                self.last_carried = self.carry.len();
                let raw = Raw::Bytes(std::mem::take(&mut self.carry).into());
                return self.emit(raw, end + 1);
            }
            self.shape.note(line, self.line);
            self.line = self.carry.len();
        }
        let chunk = self.take_chunk();
        self.carry.extend_from_slice(&chunk);
        self.check_carry()?;
        Ok(None)
    }

    #[inline(always)]
    fn emit_from_chunk(&mut self, size: usize, counted: usize) -> Result<Option<Piece>, TooLarge> {
        self.shape.set_well_formed(size <= self.well_formed);
        let raw = match self.text.len().checked_sub(self.chunk.len()) {
            Some(from) => Raw::Text(self.text.slice_ref(&self.text[from..from + size])),
            None => Raw::Bytes(self.chunk.slice(..size)),
        };
        self.advance(size);
        self.emit(raw, counted)
    }

    /// Hands out a complete piece. `counted` is its size up to the first byte of its last line end, which is
    /// what the limit is about: CR and CRLF, early or late, then count alike.
    #[inline(always)]
    fn emit(&mut self, raw: Raw, counted: usize) -> Result<Option<Piece>, TooLarge> {
        let mut shape = std::mem::take(&mut self.shape);
        self.line = 0;
        let open = self.chunk.is_empty() && raw.bytes().last() == Some(&b'\r');
        if counted > self.limit {
            self.too_large()?;
            self.at = if open { At::DiscardedCr } else { At::Block };
            return Ok(None);
        }
        if open {
            self.at = At::OuterCr;
            self.open_end = self.open_end.next();
            shape.set_open_end(self.open_end);
        }
        Ok(Some(piece(raw, shape)))
    }

    /// Looks at the unfinished block at the end of a chunk: is it still within the limit?
    fn check_carry(&mut self) -> Result<(), TooLarge> {
        let cr = self.carry.last() == Some(&b'\r');
        if self.carry.len() <= self.limit {
            if cr {
                self.at = At::InnerCr;
            }
            return Ok(());
        }
        self.too_large()?;
        self.at = if cr {
            At::DiscardCr
        } else {
            At::Discard {
                one_line: self.line == 0 && stands_alone(&self.carry),
                blank: self.line == self.carry.len(),
            }
        };
        self.carry = Vec::new();
        self.shape = Shape::default();
        self.line = 0;
        Ok(())
    }

    fn too_large(&mut self) -> Result<(), TooLarge> {
        if self.overflow == Overflow::Discard {
            return Ok(());
        }
        self.at = At::Failed;
        drop(self.take_chunk());
        self.carry = Vec::new();
        Err(TooLarge { limit: self.limit })
    }

    /// Passes over the rest of a block that is too large.
    fn discard(&mut self, one_line: bool, blank: bool) {
        let Some(end) = memchr2(b'\n', b'\r', &self.chunk) else {
            drop(self.take_chunk());
            self.at = At::Discard {
                one_line,
                blank: false,
            };
            return;
        };
        let over = one_line || (blank && end == 0);
        let taken = end + line_end_len(&self.chunk[end..]);
        let cr = self.chunk[taken - 1] == b'\r' && taken == self.chunk.len();
        self.advance(taken);
        self.at = match (over, cr) {
            (true, true) => At::DiscardedCr,
            (true, false) => At::Block,
            (false, true) => At::DiscardCr,
            (false, false) => At::Discard {
                one_line: false,
                blank: true,
            },
        };
    }

    fn take_line_feed(&mut self) -> bool {
        let found = self.chunk[0] == b'\n';
        if found {
            self.advance(1);
        }
        found
    }

    fn advance(&mut self, taken: usize) {
        self.chunk.advance(taken);
        self.well_formed = self.well_formed.saturating_sub(taken);
        if self.chunk.is_empty() {
            self.text = ByteString::new();
        }
    }

    fn take_chunk(&mut self) -> Bytes {
        self.text = ByteString::new();
        std::mem::take(&mut self.chunk)
    }
}

/// Whether a line that begins at `start` in its block completes a piece: a blank line does, and so does one
/// that no field has come before and that takes effect by itself.
#[inline]
fn ends_piece(line: &[u8], start: usize) -> bool {
    line.is_empty() || (start == 0 && stands_alone(line))
}

#[inline(always)]
fn piece(raw: Raw, shape: Shape) -> Piece {
    let block = Block { raw, shape };
    if block.is_event() {
        Piece::Event(Event::of(block))
    } else {
        Piece::Block(block)
    }
}

/// `[u8]::is_ascii` is made to stop early, and slow where it does not.
fn is_ascii(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) < 0x80
}

/// How much of the bytes is well-formed UTF-8, from the start.
fn well_formed(bytes: &[u8]) -> usize {
    match simdutf8::basic::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(_) => simdutf8::compat::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len),
    }
}
