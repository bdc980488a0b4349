//! Blocks: what stands between two blank lines, as it came.

use std::{borrow::Cow, fmt, ops::Range, time::Duration};

use bytes::Bytes;

use super::{
    block_meta::{BlockMeta, PendingLf},
    chunk_slice::ChunkSlice,
    lines::{Line, LineRanges, Lines, parse_retry, value_of},
    text::lossy,
};

/// A piece of an event stream that stands by itself: everything up to and including a blank line, or a
/// comment or `retry` line that no event has begun before.
///
/// The bytes are kept as they came and the fields are read from them on demand, so that a block nobody
/// edits leaves byte-identical. What was not sent is `None`: never a default, never an earlier value.
///
/// A block that carries data is an [`Event`](super::Event); the rest (comments, a bare `id`, a `retry`,
/// unknown fields) is never dispatched by a client but is part of the stream all the same.
///
/// ```
/// use tower_sse_proxy::codec::{Decoder, Item};
///
/// let mut decoder = Decoder::default();
/// decoder.push("id: 7\n\n".into());
/// let Ok(Some(Item::Block(block))) = decoder.next_item() else { panic!() };
/// assert_eq!(block.id().as_deref(), Some("7"));
/// assert_eq!(block.event_field(), None);
/// assert!(!block.is_event());
/// ```
#[derive(Clone)]
// In this order, for speed: what is copied from `BlockSpan` first, and what is passed from block to block last. A processor
// that has just written two words apart has to wait before it can move them as one.
#[repr(C)]
pub struct Block {
    pub(super) meta: BlockMeta,
    pub(super) slice: ChunkSlice,
}

impl Block {
    /// Reads `raw` anew, after an edit.
    pub(super) fn from_raw(raw: Vec<u8>, terminated: bool) -> Self {
        let mut meta = BlockMeta::scan(&raw);
        meta.set_terminated(terminated);
        Self {
            slice: Bytes::from(raw).into(),
            meta,
        }
    }

    /// A comment, to keep a connection alive or to say something that no client reads.
    ///
    /// Line ends in `text` make several comment lines.
    ///
    /// ```
    /// # use tower_sse_proxy::codec::Block;
    /// assert_eq!(Block::comment("one\ntwo").raw(), ": one\n: two\n\n");
    /// ```
    pub fn comment(text: &str) -> Self {
        let mut raw = Vec::with_capacity(text.len() + 4);
        super::encode::comment(&mut raw, text);
        raw.push(b'\n');
        Self::from_raw(raw, true)
    }

    /// A hint to the client how long to wait before it reconnects (WHATWG HTML 9.2.6, `retry`), in whole
    /// milliseconds.
    ///
    /// ```
    /// # use {std::time::Duration, tower_sse_proxy::codec::Block};
    /// assert_eq!(Block::retry_hint(Duration::from_secs(3)).raw(), "retry: 3000\n\n");
    /// ```
    pub fn retry_hint(after: Duration) -> Self {
        let mut raw = Vec::new();
        super::encode::field(&mut raw, b"retry", after.as_millis().to_string().as_bytes());
        raw.push(b'\n');
        Self::from_raw(raw, true)
    }

    /// The bytes on the wire, as they came or as an edit left them.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.slice.bytes()
    }

    /// The bytes on the wire, shared. ([`as_bytes`](Self::as_bytes) does without counting who shares them.)
    pub fn raw(&self) -> Bytes {
        self.slice.to_bytes()
    }

    /// Takes the bytes on the wire.
    #[inline]
    pub fn into_raw(self) -> Bytes {
        self.slice.into_bytes()
    }

    /// The same block in a buffer of its own, where the one it came in is much larger: for a block that is kept for long.
    ///
    /// A block shares the chunk that it was read from with its neighbours, and keeps all of it.
    pub fn into_owned(self) -> Self {
        Self {
            meta: self.meta,
            slice: self.slice.into_owned(),
        }
    }

    /// Whether a client dispatches this block: it has a `data` line, even an empty one (WHATWG HTML 9.2.6).
    #[inline]
    pub fn is_event(&self) -> bool {
        self.meta.data_lines() > 0
    }

    /// Whether the block is complete. The rest of a stream that ended inside a block is not: clients that
    /// follow the standard discard it (WHATWG HTML 9.2.6, end of file), lenient ones may read it.
    #[inline]
    pub fn is_terminated(&self) -> bool {
        self.meta.is_terminated()
    }

    /// The lines, in order, the blank line at the end left out.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        Lines::new(self.as_bytes())
            .map(Line::parse)
            .filter(|line| *line != Line::Blank)
    }

    /// The `event` field, the last one if there are several; `None` if it was not sent.
    #[inline]
    pub fn event_field(&self) -> Option<Cow<'_, str>> {
        self.meta
            .has_event()
            .then(|| self.read_event_field())
            .flatten()
    }

    fn read_event_field(&self) -> Option<Cow<'_, str>> {
        let name = self.last_value(self.fields_named(b"event"))?;
        Some(self.slice.text(name))
    }

    /// The `id` field, the last one if there are several; `None` if it was not sent. One that contains
    /// U+0000 is ignored, as clients do (WHATWG HTML 9.2.6). An empty id is an id: it resets the client's.
    #[inline]
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.meta.has_id().then(|| self.read_id()).flatten()
    }

    fn read_id(&self) -> Option<Cow<'_, str>> {
        let text = self.as_bytes();
        let ids = self.fields_named(b"id");
        let id = self.last_value(ids.filter(|id| !text[id.clone()].contains(&0)))?;
        Some(self.slice.text(id))
    }

    /// The `retry` field, the last valid one if there are several: the client's new reconnection time.
    pub fn retry(&self) -> Option<Duration> {
        let text = self.as_bytes();
        self.fields_named(b"retry")
            .filter_map(|value| parse_retry(&text[value]))
            .last()
            .map(Duration::from_millis)
    }

    /// The comments, without the colon and without one leading space.
    pub fn comments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.lines().filter_map(|line| match line {
            Line::Comment(text) => Some(lossy(text.strip_prefix(b" ").unwrap_or(text))),
            _ => None,
        })
    }

    /// Where the bytes are.
    #[inline]
    pub(crate) fn slice(&self) -> &ChunkSlice {
        &self.slice
    }

    /// Where the bytes are.
    #[inline]
    pub(crate) fn into_slice(self) -> ChunkSlice {
        self.slice
    }

    /// Whether an `id` line stands in the block.
    #[inline]
    pub(crate) fn has_id(&self) -> bool {
        self.meta.has_id()
    }

    #[inline]
    pub(crate) fn pending_lf(&self) -> Option<PendingLf> {
        self.meta.pending_lf()
    }

    /// Makes the block valid UTF-8: each ill-formed sequence is the U+FFFD that a client which follows
    /// the standard reads in its place (WHATWG HTML 9.2.5: streams are decoded as UTF-8).
    #[inline]
    pub(crate) fn repair_utf8(&mut self) {
        if !self.meta.is_well_formed() {
            self.repair_unchecked_utf8();
        }
    }

    fn repair_unchecked_utf8(&mut self) {
        // A line end is never part of an ill-formed sequence, so the lines stay what they are.
        if let Cow::Owned(text) = lossy(self.as_bytes()) {
            let pending_lf = self.pending_lf();
            *self = Self::from_raw(text.into_bytes(), self.is_terminated());
            if let Some(pending_lf) = pending_lf {
                self.meta.set_pending_lf(pending_lf);
            }
        }
        self.meta.set_well_formed(true);
    }

    /// Where the values of the fields of that name stand.
    fn fields_named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = Range<usize>> {
        let text = self.as_bytes();
        LineRanges::new(text).filter_map(move |line| {
            let value = value_of(&text[line.clone()], name)?;
            Some(line.start + value..line.end)
        })
    }

    /// The last `id` or `event`; without looking through all of a large block for another one, if there is none.
    fn last_value<T>(&self, mut values: impl Iterator<Item = T>) -> Option<T> {
        if self.meta.is_repeated() {
            values.last()
        } else {
            values.next()
        }
    }
}

/// Blocks are the same if they are on the wire, and both are complete or neither is.
impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes() && self.is_terminated() == other.is_terminated()
    }
}

impl Eq for Block {}

/// Shows the meta, never the text: streams carry what must not reach a log.
impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("bytes", &self.slice.len())
            .field("data_lines", &self.meta.data_lines())
            .field("terminated", &self.is_terminated())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Decoder, Event, Item};

    fn block(raw: &'static [u8]) -> Block {
        let mut decoder = Decoder::default();
        decoder.push(raw.into());
        match decoder.next_item().unwrap().or_else(|| decoder.finish()) {
            Some(Item::Event(event)) => event.into_block(),
            Some(Item::Block(block)) => block,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_ill_formed_is_repaired_and_nothing_else() {
        let mut bad = block(b"data: a\xffb\r\r");
        let pending_lf = bad.pending_lf();
        assert!(pending_lf.is_some());
        bad.repair_utf8();
        assert_eq!(bad.as_bytes(), "data: a\u{fffd}b\r\r".as_bytes());
        assert_eq!(bad.pending_lf(), pending_lf);
        let mut good = block("data: \u{e4}\n\n".as_bytes());
        let before = good.as_bytes().as_ptr();
        good.repair_utf8();
        assert_eq!(good.as_bytes().as_ptr(), before);
    }

    #[test]
    fn comments_can_be_taken_out_and_a_block_of_nothing_else_is_gone() {
        let without = |raw| block(raw).without_comments();
        assert_eq!(
            without(b"id: 1\r\n: c\r\ndata: a\r\n\r\n")
                .unwrap()
                .as_bytes(),
            b"id: 1\ndata: a\n\n"
        );
        assert_eq!(without(b"data: a\r\r").unwrap().as_bytes(), b"data: a\r\r");
        assert_eq!(without(b": c\n"), None);
        assert_eq!(without(b"\n").unwrap().as_bytes(), b"\n");
    }

    #[test]
    fn blocks_are_the_same_if_they_are_on_the_wire_and_as_complete() {
        assert_eq!(block(b"data: a\n\n"), Event::new("a").into_block());
        assert_ne!(block(b"data: a\n\n"), Event::new("b").into_block());
        let unfinished = block(b"data: a");
        assert_ne!(unfinished, Block::from_raw(b"data: a".to_vec(), true));
        assert!(!unfinished.has_id() && block(b"id\n\n").has_id());
    }

    #[test]
    fn an_unfinished_block_ends_as_before_when_it_is_edited() {
        for (raw, edited) in [
            (&b"data: a"[..], "data: b"),
            (b"data: a\n", "data: b\n"),
            (b"data: a\r", "data: b\n"),
            (b"data: a\n\n", "data: b\n\n"),
        ] {
            let mut event = Event::from_block(block(raw)).unwrap();
            event.set_data("b");
            assert_eq!(event.as_bytes(), edited.as_bytes());
        }
    }

    #[test]
    fn debug_output_shows_the_shape() {
        let shown = format!("{:?}", block(b"data: a\ndata: b\n\n"));
        assert_eq!(
            shown,
            "Block { bytes: 17, data_lines: 2, terminated: true, .. }"
        );
        assert_eq!(
            format!("{:?}", Event::new("a")),
            "Event(Block { bytes: 9, data_lines: 1, terminated: true, .. })"
        );
        assert_eq!(
            format!("{:?}", block(b"data: a").slice),
            "ChunkSlice { bytes: 7, .. }"
        );
        let mut decoder = Decoder::new(100);
        decoder.push("data: half".into());
        let _ = decoder.next_item();
        let shown = format!("{decoder:?}");
        assert!(
            shown.contains("limit: 100") && shown.contains("unfinished: 10"),
            "{shown}"
        );
    }

    #[test]
    fn errors_say_what_would_be_right() {
        let error = Event::new("a").set_id("1\n2").unwrap_err().to_string();
        assert!(
            error.contains("`id`") && error.contains("without CR, LF and NUL"),
            "{error}"
        );
        let error = crate::codec::EventTooLarge { limit: 7 }.to_string();
        assert!(error.contains("7 bytes"), "{error}");
    }

    #[test]
    fn one_line_of_data_is_borrowed() {
        assert!(matches!(Event::new("a").data(), Cow::Borrowed("a")));
        assert!(matches!(Event::new("a\nb").data(), Cow::Owned(_)));
    }

    #[test]
    fn the_bytes_of_a_piece_are_those_on_the_wire() {
        let mut decoder = Decoder::default();
        let wire = b"\xef\xbb\xbfdata: a\r\r";
        decoder.push(wire[..].into());
        let mut raw = Vec::new();
        while let Some(piece) = decoder.next_item().unwrap() {
            raw.extend_from_slice(&piece.into_raw());
        }
        decoder.push("\n: b\n".into());
        while let Some(piece) = decoder.next_item().unwrap() {
            raw.extend_from_slice(&piece.into_raw());
        }
        assert_eq!(raw, [&wire[..], b"\n: b\n"].concat());
    }
}
