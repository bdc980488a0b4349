//! The incremental decoder: bytes in, blocks out.

use std::fmt;

use bytes::Bytes;
use memchr::memchr2;

use super::{
    block::Block,
    block_meta::{BlockMeta, PendingLf},
    chunk_slice::ChunkSlice,
    event::Event,
    input::Input,
    item::{BOM, EventTooLarge, Item, SplitLineFeed},
    lines::{completes_item, is_standalone, line_end_len},
    lookahead::Unfinished,
};

/// Cuts an event stream into [`Item`]s, whatever chunks it arrives in.
///
/// The decoder does no I/O and has no clock. It looks at every byte once, so a stream dripped byte by byte
/// costs as much as the same stream whole; it copies only a block that crosses chunks; and it keeps at most
/// one unfinished block, which is bounded. Joined together, the pieces are the input, byte for byte.
///
/// A block is handed out as soon as the standard lets a client dispatch it: after the CR of a blank line,
/// without waiting for an LF that may or may not come (WHATWG HTML 9.2.5).
///
/// ```
/// use tower_sse_proxy::codec::{Decoder, Item};
///
/// let mut decoder = Decoder::default();
/// decoder.push(": hi\ndata: on".into());
///
/// // A comment stands by itself as soon as its line ends ...
/// assert!(matches!(decoder.next_item()?, Some(Item::Block(b)) if b.raw() == ": hi\n"));
/// // ... an event needs its blank line.
/// assert!(decoder.next_item()?.is_none());
/// decoder.push("e\n\ndata: tail".into());
/// assert!(matches!(decoder.next_item()?, Some(Item::Event(e)) if e.data() == "one"));
/// assert!(decoder.next_item()?.is_none());
///
/// // What is left at the end was never complete.
/// let Some(Item::Event(tail)) = decoder.finish() else { panic!() };
/// assert!(!tail.is_terminated());
/// # Ok::<(), tower_sse_proxy::codec::EventTooLarge>(())
/// ```
#[repr(C)] // See `Stream`.
pub struct Decoder {
    at: At,
    overflow: OversizedEvent,
    /// Whether to look for ill-formed UTF-8.
    check_utf8: bool,
    limit: usize,
    /// The beginning of a block whose end has not come yet; searched already, all of it.
    carry: Vec<u8>,
    input: Input,
    /// The size of the last block that crossed chunks.
    last_carried_len: usize,
    /// Where the line that is being read begins, counted from the beginning of its block.
    line: usize,
    meta: BlockMeta,
    /// The name of the last piece that ended in a CR at the end of the input.
    pending_lf: PendingLf,
}

/// What to do with a block that is larger than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OversizedEvent {
    /// The stream is over: [`EventTooLarge`]. Nobody mistakes the rest for the whole.
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
            .field("input", &self.input.rest().len())
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
            overflow: OversizedEvent::Fail,
            input: Input::default(),
            check_utf8: false,
            carry: Vec::new(),
            last_carried_len: 0,
            line: 0,
            meta: BlockMeta::default(),
            at: At::Start,
            pending_lf: PendingLf::FIRST,
        }
    }

    /// Says what happens to a block above the limit; [`OversizedEvent::Fail`] unless set.
    pub fn oversized_event(mut self, overflow: OversizedEvent) -> Self {
        self.overflow = overflow;
        self
    }

    /// Looks for ill-formed UTF-8 a chunk at a time, for blocks that will be asked for their text: cheaper than a block at a
    /// time, which is what happens unless this is set. What is read is the same.
    pub fn check_utf8(mut self, check: bool) -> Self {
        self.check_utf8 = check;
        self
    }

    /// A decoder of the same kind, at the start of another stream.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            // The same place is not to be found twice.
            pending_lf: self.pending_lf,
            ..Self::new(self.limit)
                .oversized_event(self.overflow)
                .check_utf8(self.check_utf8)
        }
    }

    /// Hands in the next bytes. Take the pieces with [`next_piece`](Self::next_item) before the next call:
    /// input that is still waiting is copied together with the new.
    pub fn push(&mut self, chunk: Bytes) {
        self.input.push(chunk, self.check_utf8);
    }

    /// Takes back a block that is needed no more, which makes the next one of the same chunk cheaper by half. Nothing depends
    /// on it.
    #[inline(always)]
    pub fn recycle(&mut self, block: impl Into<Block>) {
        self.input.recycle(block.into());
    }

    /// The memory, in bytes, of an unfinished block and of input that is not taken yet.
    pub(crate) fn held_bytes(&self) -> usize {
        self.carry.capacity() + self.input.rest().len()
    }

    /// Whether there is input that is not taken yet.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// The next piece, or `None` when more input is needed.
    ///
    /// # Errors
    /// [`EventTooLarge`], once; the decoder then takes no more input and has no more pieces.
    #[inline]
    pub fn next_item(&mut self) -> Result<Option<Item>, EventTooLarge> {
        if let Some(block) = self.next_whole_block() {
            return Ok(Some(piece(block)));
        }
        while !self.input.is_empty() {
            match self.at {
                At::Start => {
                    if let Some(bom) = self.start() {
                        return Ok(Some(bom));
                    }
                }
                At::Block => {
                    let piece = if self.carry.is_empty() {
                        self.read_block()?
                    } else {
                        self.read_carried_block()?
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
                        return Ok(Some(Item::SplitLineFeed(SplitLineFeed(self.pending_lf))));
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
                At::Failed => self.input.clear(),
            }
        }
        Ok(None)
    }

    /// Ends the input: what is left of an unfinished block, if anything is. Take the pieces before with
    /// [`next_piece`](Self::next_item), until there is none: input that still waits is not looked at here.
    ///
    /// Clients that follow the standard discard it (WHATWG HTML 9.2.6, end of file); it must never be
    /// completed, only passed on as it is or dropped.
    pub fn finish(&mut self) -> Option<Item> {
        if self.carry.is_empty() {
            return None;
        }
        self.meta.note(&self.carry[self.line..], self.line);
        self.meta.set_terminated(false);
        self.line = 0;
        Some(piece(self.take_carry()))
    }

    /// The start of the stream: a BOM is a piece of its own, also when its bytes arrive one by one.
    fn start(&mut self) -> Option<Item> {
        while let Some(&byte) = self.input.rest().first() {
            if byte != BOM[self.carry.len()] {
                self.at = At::Block;
                return None;
            }
            self.carry.push(byte);
            self.input.advance(1);
            if self.carry.len() == BOM.len() {
                self.carry.clear();
                self.at = At::Block;
                return Some(Item::Bom);
            }
        }
        None
    }

    /// The next block, if there is nothing special about it: the way most of any stream takes.
    #[inline(always)]
    pub(crate) fn next_whole_block(&mut self) -> Option<Block> {
        let at_its_start = self.at == At::Block && self.carry.is_empty();
        if at_its_start {
            self.input.next_whole_block(self.limit)
        } else {
            None
        }
    }

    /// Reads on in a block, whatever it is like.
    fn read_block(&mut self) -> Result<Option<Item>, EventTooLarge> {
        if let Some(Unfinished { meta, line }) = self.input.unfinished() {
            (self.meta, self.line) = (meta, line);
        } else if let Some((size, counted)) = self.find_end() {
            return self.emit_from_chunk(size, counted);
        }
        // A block in the making outlives its chunk: a copy, so that the chunk's buffer is free.
        let rest = self.input.rest().len();
        if rest >= self.last_carried_len / 8 {
            // Streams of large events have more of them: make room once rather than grow.
            self.carry.reserve(self.last_carried_len.max(rest));
        }
        self.carry_rest()
    }

    /// Reads on in a block that began in an earlier chunk.
    fn read_carried_block(&mut self) -> Result<Option<Item>, EventTooLarge> {
        // First the line that began there.
        let rest = self.input.rest();
        let Some(found) = memchr2(b'\n', b'\r', rest) else {
            return self.carry_rest();
        };
        let end = self.carry.len() + found;
        self.carry_bytes(found + line_end_len(&rest[found..]));
        let line = &self.carry[self.line..end];
        let counted = if completes_item(line, self.line) {
            end + 1
        } else {
            self.meta.note(line, self.line);
            self.line = self.carry.len();
            // The others stand in the chunk as they are.
            let Some((size, counted)) = self.find_end() else {
                return self.carry_rest();
            };
            self.carry_bytes(size);
            counted
        };
        self.last_carried_len = self.carry.len();
        let block = self.take_carry();
        self.emit(block, counted)
    }

    /// Looks for the end of the block in the input, where its next line begins: how much of the input belongs to it, and how
    /// much of the block counts.
    fn find_end(&mut self) -> Option<(usize, usize)> {
        let (carried, rest) = (self.carry.len(), self.input.rest());
        let mut searched = 0;
        while let Some(found) = memchr2(b'\n', b'\r', &rest[searched..]) {
            let end = searched + found;
            searched = end + line_end_len(&rest[end..]);
            let line = &rest[self.line - carried..end];
            if completes_item(line, self.line) {
                return Some((searched, carried + end + 1));
            }
            self.meta.note(line, self.line);
            self.line = carried + searched;
        }
        None
    }

    fn carry_bytes(&mut self, taken: usize) {
        self.carry.extend_from_slice(&self.input.rest()[..taken]);
        self.input.advance(taken);
    }

    /// Keeps the rest of the input, of which no line ends.
    fn carry_rest(&mut self) -> Result<Option<Item>, EventTooLarge> {
        self.carry.extend_from_slice(self.input.rest());
        self.input.clear();
        self.check_carry()?;
        Ok(None)
    }

    /// The block that crossed chunks.
    fn take_carry(&mut self) -> Block {
        let bytes = Bytes::from(std::mem::take(&mut self.carry));
        let mut meta = std::mem::take(&mut self.meta);
        if !self.check_utf8 {
            let slice = bytes.into();
            return Block { meta, slice };
        }
        let (slice, well_formed) = ChunkSlice::checked(bytes);
        meta.set_well_formed(well_formed);
        Block { meta, slice }
    }

    fn emit_from_chunk(
        &mut self,
        size: usize,
        counted: usize,
    ) -> Result<Option<Item>, EventTooLarge> {
        let meta = std::mem::take(&mut self.meta);
        match self.input.take_block(size, meta) {
            Some(block) => self.emit(block, counted),
            None => Ok(None),
        }
    }

    /// Hands out a complete piece. `counted` is its size up to the first byte of its last line end, which is
    /// what the limit is about: CR and CRLF, early or late, then count alike.
    fn emit(&mut self, mut block: Block, counted: usize) -> Result<Option<Item>, EventTooLarge> {
        self.line = 0;
        let open = self.input.is_empty() && block.as_bytes().last() == Some(&b'\r');
        if counted > self.limit {
            self.too_large()?;
            self.at = if open { At::DiscardedCr } else { At::Block };
            return Ok(None);
        }
        if open {
            self.at = At::OuterCr;
            self.pending_lf = self.pending_lf.next();
            block.meta.set_pending_lf(self.pending_lf);
        }
        Ok(Some(piece(block)))
    }

    /// Looks at the unfinished block at the end of a chunk: is it still within the limit?
    fn check_carry(&mut self) -> Result<(), EventTooLarge> {
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
                one_line: self.line == 0 && is_standalone(&self.carry),
                blank: self.line == self.carry.len(),
            }
        };
        self.carry = Vec::new();
        self.meta = BlockMeta::default();
        self.line = 0;
        Ok(())
    }

    fn too_large(&mut self) -> Result<(), EventTooLarge> {
        if self.overflow == OversizedEvent::Discard {
            return Ok(());
        }
        self.at = At::Failed;
        self.input.clear();
        self.carry = Vec::new();
        Err(EventTooLarge { limit: self.limit })
    }

    /// Passes over the rest of a block that is too large.
    fn discard(&mut self, one_line: bool, blank: bool) {
        let rest = self.input.rest();
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            self.input.clear();
            self.at = At::Discard {
                one_line,
                blank: false,
            };
            return;
        };
        let over = one_line || (blank && end == 0);
        let taken = end + line_end_len(&rest[end..]);
        let cr = rest[taken - 1] == b'\r' && taken == rest.len();
        self.input.advance(taken);
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
        let found = self.input.rest()[0] == b'\n';
        if found {
            self.input.advance(1);
        }
        found
    }
}

#[inline(always)]
fn piece(block: Block) -> Item {
    if block.is_event() {
        Item::Event(Event::of(block))
    } else {
        Item::Block(block)
    }
}

#[cfg(test)]
mod tests;
