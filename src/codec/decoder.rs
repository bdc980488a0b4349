//! The incremental decoder: chunks of bytes in, blocks out.

mod state;

use std::fmt;

use bytes::Bytes;
use memchr::memchr2;

use super::{
    block::Block,
    block_meta::{BlockMeta, PendingLf},
    chunk_slice::ChunkSlice,
    input::Input,
    item::{BOM, EventTooLarge, Item, OversizedEvent, SplitLineFeed},
    lines::{completes_item, is_standalone, line_end_len},
    lookahead::Unfinished,
};
use state::{State, discard_line};

/// An incremental decoder: it splits an event stream into [`Item`]s, however the stream is cut into chunks.
///
/// The decoder does no I/O and has no clock. It reads each byte once, so a stream that arrives byte by byte costs as much as the
/// same stream in one chunk. It copies a block only if the block crosses a chunk boundary. It buffers at most one unfinished block,
/// up to the limit of [`new`](Self::new). The bytes of all items, joined in order, are the bytes of the stream, unless
/// [`OversizedEvent::Discard`] is set.
///
/// The decoder returns a block as soon as the standard lets a client dispatch it: after the CR of a blank line, without waiting for
/// an LF (WHATWG HTML 9.2.5, `end-of-line`). If an LF follows, it is a separate item: [`Item::SplitLineFeed`].
///
/// ```
/// use tower_sse_proxy::codec::{Decoder, Item};
///
/// let mut decoder = Decoder::default();
/// decoder.push(": hi\ndata: on".into());
///
/// // A comment line before the first field is complete when its line ends.
/// assert!(matches!(decoder.next_item()?, Some(Item::Block(b)) if b.raw() == ": hi\n"));
/// // An event needs a blank line.
/// assert!(decoder.next_item()?.is_none());
/// decoder.push("e\n\ndata: tail".into());
/// assert!(matches!(decoder.next_item()?, Some(Item::Event(e)) if e.data() == "one"));
/// assert!(decoder.next_item()?.is_none());
///
/// // At the end of the stream, `finish` returns the unfinished block.
/// let Some(Item::Event(tail)) = decoder.finish() else { panic!() };
/// assert!(!tail.is_terminated());
/// # Ok::<(), tower_sse_proxy::codec::EventTooLarge>(())
/// ```
#[repr(C)] // See `Stream`.
pub struct Decoder {
    state: State,
    oversized: OversizedEvent,
    /// Whether to check that the input is well-formed UTF-8.
    check_utf8: bool,
    /// The largest size of a block in bytes.
    limit: usize,
    /// The bytes of an unfinished block from earlier chunks. They have been searched for line ends. In `State::Start`, the first
    /// bytes of a BOM.
    carry: Vec<u8>,
    input: Input,
    /// The size of the last block that crossed a chunk boundary.
    last_carried_len: usize,
    /// The offset in the current block at which its current line starts.
    line: usize,
    meta: BlockMeta,
    /// Identifies the last block that ended in a CR at the end of the input.
    pending_lf: PendingLf,
}

/// Shows the state and sizes, never text of the stream.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("limit", &self.limit)
            .field("oversized", &self.oversized)
            .field("input", &self.input.rest().len())
            .field("unfinished", &self.carry.len())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Default for Decoder {
    /// A decoder with the limit [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT).
    fn default() -> Self {
        Self::new(Self::DEFAULT_LIMIT)
    }
}

impl Decoder {
    /// The default limit on the size of a block: 16 MiB.
    pub const DEFAULT_LIMIT: usize = 16 << 20;

    /// A decoder that accepts blocks of at most `limit` bytes.
    ///
    /// Field names and line ends count. Of the last line end only one byte counts, so CRLF and CR are equal. A limit below 16 bytes
    /// is raised to 16 bytes, and a limit of 4 GiB or more is lowered to just below 4 GiB.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.clamp(16, u32::MAX as usize - 2),
            oversized: OversizedEvent::Fail,
            input: Input::default(),
            check_utf8: false,
            carry: Vec::new(),
            last_carried_len: 0,
            line: 0,
            meta: BlockMeta::default(),
            state: State::Start,
            pending_lf: PendingLf::FIRST,
        }
    }

    /// Sets what happens to a block that is larger than the limit. Default: [`OversizedEvent::Fail`].
    pub fn oversized_event(mut self, oversized: OversizedEvent) -> Self {
        self.oversized = oversized;
        self
    }

    /// Sets whether the decoder checks UTF-8 once for each chunk. Default: `false`, and each block is checked when its text is
    /// read.
    ///
    /// `true` is faster if the text of most blocks is read. The setting does not change which text is read.
    pub fn check_utf8(mut self, check: bool) -> Self {
        self.check_utf8 = check;
        self
    }

    /// A decoder with the same settings, at the start of a new stream.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            // A `SplitLineFeed` of the new stream must not match a block of the old one.
            pending_lf: self.pending_lf,
            ..Self::new(self.limit)
                .oversized_event(self.oversized)
                .check_utf8(self.check_utf8)
        }
    }

    /// Adds the next chunk of the stream.
    ///
    /// Call [`next_item`](Self::next_item) until it returns `None` before the next call. If input is left, the decoder copies it
    /// together with the new chunk.
    pub fn push(&mut self, chunk: Bytes) {
        self.input.push(chunk, self.check_utf8);
    }

    /// Gives a block that is no longer needed back to the decoder. The call is optional: it makes the next block of the same chunk
    /// cheaper, because the chunk's reference count does not change.
    #[inline(always)]
    pub fn recycle(&mut self, block: impl Into<Block>) {
        self.input.recycle(block.into());
    }

    /// The memory in bytes of an unfinished block and of the input that is left.
    pub(crate) fn held_bytes(&self) -> usize {
        self.carry.capacity() + self.input.rest().len()
    }

    /// Whether input is left.
    #[inline] // See `Source::poll_frames` of `Pull`.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Returns the next item, or `None` if the decoder needs more input.
    ///
    /// # Errors
    /// Returns [`EventTooLarge`] once if a block is larger than the limit and [`OversizedEvent::Fail`] is set. After that the
    /// decoder ignores all input and returns `None`.
    #[inline]
    pub fn next_item(&mut self) -> Result<Option<Item>, EventTooLarge> {
        if let Some(block) = self.next_whole_block() {
            return Ok(Some(Item::of(block)));
        }
        while !self.input.is_empty() {
            match self.state {
                // 9.2.5: `stream = [ bom ] *event`.
                State::Start => {
                    if let Some(bom) = self.read_bom() {
                        return Ok(Some(bom));
                    }
                }
                // 9.2.5: `event = *( comment / field ) end-of-line`.
                State::Block => {
                    let item = if self.carry.is_empty() {
                        self.read_block()?
                    } else {
                        self.read_carried_block()?
                    };
                    if item.is_some() {
                        return Ok(item);
                    }
                }
                // 9.2.5: `end-of-line = ( cr lf / cr / lf )`. The CR was the last byte of a chunk.
                State::InnerCr => {
                    self.state = State::Block;
                    if self.take_line_feed() {
                        self.carry.push(b'\n');
                        self.line += 1;
                        self.check_carry()?;
                    }
                }
                // 9.2.5: `end-of-line`. The CR has completed a block (9.2.6: "If the line is empty (a blank line): Dispatch the
                // event"), so the LF is not the end of another blank line.
                State::OuterCr => {
                    self.state = State::Block;
                    if self.take_line_feed() {
                        return Ok(Some(Item::SplitLineFeed(SplitLineFeed(self.pending_lf))));
                    }
                }
                // Not in the standard: the limit of this decoder.
                State::Discard { one_line, blank } => {
                    let (taken, next) = discard_line(self.input.rest(), one_line, blank);
                    self.input.advance(taken);
                    self.state = next;
                }
                // 9.2.5: `end-of-line`, inside a skipped block.
                State::DiscardCr => {
                    self.take_line_feed();
                    self.state = State::Discard {
                        one_line: false,
                        blank: true,
                    };
                }
                // 9.2.5: `end-of-line`, at the end of a skipped block.
                State::DiscardedCr => {
                    self.take_line_feed();
                    self.state = State::Block;
                }
                // Not in the standard: the limit of this decoder.
                State::Failed => self.input.clear(),
            }
        }
        Ok(None)
    }

    /// Ends the input and returns the unfinished block, or `None` if the stream ended after a complete block.
    ///
    /// Call [`next_item`](Self::next_item) until it returns `None` first: `finish` ignores input that is left.
    ///
    /// The returned block is not [terminated](Block::is_terminated). Clients that follow the standard discard it (WHATWG HTML
    /// 9.2.6: "Once the end of the file is reached, any pending data must be discarded"). A proxy passes it on unchanged or drops
    /// it; adding a blank line would turn it into an event.
    pub fn finish(&mut self) -> Option<Item> {
        if self.carry.is_empty() {
            return None;
        }
        self.meta.note(&self.carry[self.line..], self.line);
        self.meta.set_terminated(false);
        self.line = 0;
        Some(Item::of(self.take_carry()))
    }

    /// Reads the BOM at the start of the stream, which may arrive byte by byte (9.2.5: `stream = [ bom ] *event`).
    fn read_bom(&mut self) -> Option<Item> {
        while let Some(&byte) = self.input.rest().first() {
            if byte != BOM[self.carry.len()] {
                // Not a BOM: the bytes in `carry` belong to the first line.
                self.state = State::Block;
                return None;
            }
            self.carry.push(byte);
            self.input.advance(1);
            if self.carry.len() == BOM.len() {
                self.carry.clear();
                self.state = State::Block;
                return Some(Item::Bom);
            }
        }
        None
    }

    /// The next block if all of it is in the current chunk, it is within the limit, and it does not end in a CR at the end of the
    /// chunk. This is the fast path, which most blocks take.
    // With `inline` instead of `inline(always)` on this path, an event of the stream T2 of the bench `proxy` takes 9 % more
    // instructions with the default release settings.
    #[inline(always)]
    pub(crate) fn next_whole_block(&mut self) -> Option<Block> {
        let at_block_start = self.state == State::Block && self.carry.is_empty();
        if at_block_start {
            self.input.next_whole_block(self.limit)
        } else {
            None
        }
    }

    /// Reads a block that begins in the current chunk, where the fast path has found none.
    fn read_block(&mut self) -> Result<Option<Item>, EventTooLarge> {
        if let Some(Unfinished { meta, line }) = self.input.unfinished() {
            (self.meta, self.line) = (meta, line);
        } else if let Some((size, counted)) = self.find_end() {
            return self.emit_from_chunk(size, counted);
        }
        // The block continues in the next chunk. Its bytes are copied, so that the memory of this chunk is free.
        let rest = self.input.rest().len();
        if rest >= self.last_carried_len / 8 {
            // Large events come in series: reserve memory for one of the same size at once.
            self.carry.reserve(self.last_carried_len.max(rest));
        }
        self.carry_rest()
    }

    /// Reads a block that began in an earlier chunk.
    fn read_carried_block(&mut self) -> Result<Option<Item>, EventTooLarge> {
        // First the rest of the line that began there.
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
            // All other lines begin in this chunk.
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

    /// Searches the input for the end of the block, from a line start on. Returns how many bytes of the input belong to the block,
    /// and how many bytes of the block count for the limit.
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

    /// Copies the rest of the input, in which the block does not end.
    fn carry_rest(&mut self) -> Result<Option<Item>, EventTooLarge> {
        self.carry.extend_from_slice(self.input.rest());
        self.input.clear();
        self.check_carry()?;
        Ok(None)
    }

    /// Makes a block of the carried bytes.
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

    /// Returns a complete block as an item. `counted` is its size up to the first byte of its last line end. The limit applies to
    /// this size, so that it does not matter whether the line end is CR or CRLF, and when the LF arrives.
    fn emit(&mut self, mut block: Block, counted: usize) -> Result<Option<Item>, EventTooLarge> {
        self.line = 0;
        // 9.2.5: `end-of-line = ( cr lf / cr / lf )`. An LF may follow in the next chunk.
        let ends_in_cr = self.input.is_empty() && block.as_bytes().last() == Some(&b'\r');
        if counted > self.limit {
            self.reject_oversized()?;
            self.state = if ends_in_cr {
                State::DiscardedCr
            } else {
                State::Block
            };
            return Ok(None);
        }
        if ends_in_cr {
            self.state = State::OuterCr;
            self.pending_lf = self.pending_lf.next();
            block.meta.set_pending_lf(self.pending_lf);
        }
        Ok(Some(Item::of(block)))
    }

    /// Checks the size of the unfinished block at the end of a chunk.
    fn check_carry(&mut self) -> Result<(), EventTooLarge> {
        // 9.2.5: `end-of-line = ( cr lf / cr / lf )`. An LF may follow in the next chunk.
        let ends_in_cr = self.carry.last() == Some(&b'\r');
        if self.carry.len() <= self.limit {
            if ends_in_cr {
                self.state = State::InnerCr;
            }
            return Ok(());
        }
        self.reject_oversized()?;
        self.state = if ends_in_cr {
            State::DiscardCr
        } else {
            State::Discard {
                one_line: self.line == 0 && is_standalone(&self.carry),
                blank: self.line == self.carry.len(),
            }
        };
        self.carry = Vec::new();
        self.meta = BlockMeta::default();
        self.line = 0;
        Ok(())
    }

    /// Fails if [`OversizedEvent::Fail`] is set. Else the caller skips the block.
    fn reject_oversized(&mut self) -> Result<(), EventTooLarge> {
        if self.oversized == OversizedEvent::Discard {
            return Ok(());
        }
        self.state = State::Failed;
        self.input.clear();
        self.carry = Vec::new();
        Err(EventTooLarge { limit: self.limit })
    }

    /// Takes the LF of a CRLF whose CR was the last byte of the previous chunk. Returns whether the next byte was an LF.
    fn take_line_feed(&mut self) -> bool {
        let found = self.input.rest()[0] == b'\n';
        if found {
            self.input.advance(1);
        }
        found
    }
}

#[cfg(test)]
mod tests;
