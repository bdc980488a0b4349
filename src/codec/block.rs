//! Blocks: the units into which a decoder splits an event stream.

use std::{borrow::Cow, fmt, ops::Range, time::Duration};

use bytes::Bytes;

use super::{
    block_meta::{BlockMeta, PendingLf},
    chunk_slice::ChunkSlice,
    lines::{Line, LineRanges, Lines, parse_retry, value_of},
    utf8::lossy,
};

/// The lines of an event stream up to and including a blank line, or one comment or `retry` line before the first field.
///
/// A block holds its bytes on the wire and reads the fields from them on demand. A block that is not edited is therefore
/// byte-identical to the input. A field that was not sent is `None`, not a default and not an earlier value.
///
/// A block with a `data` line is an [`Event`](super::Event). A client dispatches no other block: comments, `id`, `retry` or unknown
/// fields alone (WHATWG HTML 9.2.6).
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
// The order of the fields is for speed: first the fields that are copied from `BlockSpan`, last the field that moves from block to
// block. A processor that has just written two words separately must wait before it can move them as one. Without the fixed order,
// the layer takes a sixth more time for an event of the stream T2 of the bench `proxy`.
#[repr(C)]
pub struct Block {
    pub(super) meta: BlockMeta,
    pub(super) slice: ChunkSlice,
}

impl Block {
    /// A block of these bytes, whose lines are read once. `terminated` is whether the block is complete.
    pub(super) fn from_raw(raw: Vec<u8>, terminated: bool) -> Self {
        let mut meta = BlockMeta::scan(&raw);
        meta.set_terminated(terminated);
        Self {
            slice: Bytes::from(raw).into(),
            meta,
        }
    }

    /// A block of comment lines. Clients ignore it (WHATWG HTML 9.2.6); it keeps the connection alive.
    ///
    /// Each line of `text` (ended by LF, CR or CRLF) becomes one comment line.
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

    /// A block with a `retry` field, which sets the client's reconnection time (WHATWG HTML 9.2.6). The field holds whole
    /// milliseconds; a fraction is cut off.
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

    /// The bytes on the wire.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.slice.bytes()
    }

    /// The bytes on the wire, in shared memory. [`as_bytes`](Self::as_bytes) is cheaper, because it changes no reference count.
    pub fn raw(&self) -> Bytes {
        self.slice.to_bytes()
    }

    /// Converts the block into its bytes on the wire.
    #[inline]
    pub fn into_raw(self) -> Bytes {
        self.slice.into_bytes()
    }

    /// Copies the block out of its chunk if the chunk is much larger than the block.
    ///
    /// A block shares the chunk of input that it was read from, and all of the chunk stays allocated as long as the block. Call
    /// this for a block that is stored for a long time.
    pub fn into_owned(self) -> Self {
        Self {
            meta: self.meta,
            slice: self.slice.into_owned(),
        }
    }

    /// Whether the block has a `data` line. If it does, a client dispatches it as an event, even if the data is empty (WHATWG HTML
    /// 9.2.6).
    #[inline]
    pub fn is_event(&self) -> bool {
        self.meta.data_lines() > 0
    }

    /// Whether the block has one `data` line, whose value has this many bytes.
    #[inline]
    pub(crate) fn has_one_data_line_of(&self, bytes: usize) -> bool {
        self.meta.data_lines() == 1 && self.meta.first_data().len() == bytes
    }

    /// Whether the block has no line but one `data` line, as most blocks of many streams. Reads no line. `false` for some blocks that
    /// have no other line.
    #[inline]
    fn is_one_data_line(&self) -> bool {
        let data = self.meta.first_data();
        let is_first = data.start <= b"data: ".len();
        self.meta.data_lines() == 1 && is_first && self.as_bytes().len() <= data.end + b"\n\n".len()
    }

    /// Whether the block is complete. Only the block that [`Decoder::finish`](super::Decoder::finish) returns is not.
    ///
    /// Clients that follow the standard discard an incomplete block (WHATWG HTML 9.2.6, end of file). Lenient clients may read it.
    #[inline]
    pub fn is_terminated(&self) -> bool {
        self.meta.is_terminated()
    }

    /// The lines in order, without the blank line at the end.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        Lines::new(self.as_bytes())
            .map(Line::parse)
            .filter(|line| *line != Line::Blank)
    }

    /// The value of the last `event` field, or `None` if the block has none.
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

    /// The value of the last `id` field, or `None` if the block has none.
    ///
    /// A field that contains U+0000 is ignored, as in a client (WHATWG HTML 9.2.6). An empty value resets the client's last event
    /// id.
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

    /// The value of the last valid `retry` field, or `None` if the block has none.
    ///
    /// A value is valid if it consists of ASCII digits (WHATWG HTML 9.2.6). It is in milliseconds; a value above `u64::MAX` reads
    /// as `u64::MAX`.
    pub fn retry(&self) -> Option<Duration> {
        if self.is_one_data_line() {
            return None;
        }
        let text = self.as_bytes();
        self.fields_named(b"retry")
            .filter_map(|value| parse_retry(&text[value]))
            .last()
            .map(Duration::from_millis)
    }

    /// The text of each comment line, without the colon and without one leading space. Ill-formed UTF-8 reads as U+FFFD.
    pub fn comments(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.lines().filter_map(|line| match line {
            Line::Comment(text) => Some(lossy(text.strip_prefix(b" ").unwrap_or(text))),
            _ => None,
        })
    }

    /// The bytes and the chunk that they are in.
    #[inline]
    pub(crate) fn slice(&self) -> &ChunkSlice {
        &self.slice
    }

    /// Converts the block into its bytes and the chunk that they are in.
    #[inline]
    pub(crate) fn into_slice(self) -> ChunkSlice {
        self.slice
    }

    /// Whether the block has an `id` line, also one that clients ignore.
    #[inline]
    pub(crate) fn has_id(&self) -> bool {
        self.meta.has_id()
    }

    /// The identity of the block if it ends in a CR whose LF may still come.
    #[inline]
    pub(crate) fn pending_lf(&self) -> Option<PendingLf> {
        self.meta.pending_lf()
    }

    /// Makes the block well-formed UTF-8: replaces each ill-formed sequence with U+FFFD, as a client does when it reads the stream
    /// (WHATWG HTML 9.2.6: "Streams must be decoded using the UTF-8 decode algorithm").
    #[inline]
    pub(crate) fn repair_utf8(&mut self) {
        if !self.meta.is_well_formed() {
            self.repair_unchecked_utf8();
        }
    }

    fn repair_unchecked_utf8(&mut self) {
        // CR and LF are never part of an ill-formed sequence, so all lines keep their line ends.
        if let Cow::Owned(text) = lossy(self.as_bytes()) {
            let pending_lf = self.pending_lf();
            *self = Self::from_raw(text.into_bytes(), self.is_terminated());
            if let Some(pending_lf) = pending_lf {
                self.meta.set_pending_lf(pending_lf);
            }
        }
        self.meta.set_well_formed(true);
    }

    /// The ranges of the values of all fields with this name.
    fn fields_named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = Range<usize>> {
        let text = self.as_bytes();
        LineRanges::new(text).filter_map(move |line| {
            let value = value_of(&text[line.clone()], name)?;
            Some(line.start + value..line.end)
        })
    }

    /// The last value. If the block has no two `id` lines and no two `event` lines, it is the first value, and the rest of the
    /// block is not searched.
    fn last_value<T>(&self, mut values: impl Iterator<Item = T>) -> Option<T> {
        if self.meta.is_repeated() {
            values.last()
        } else {
            values.next()
        }
    }
}

/// Two blocks are equal if their bytes are equal and both are complete or both are not.
impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes() && self.is_terminated() == other.is_terminated()
    }
}

impl Eq for Block {}

/// Shows sizes and flags, never text: a stream may contain secrets, which must not reach a log.
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
    fn retry_is_found_before_and_after_a_data_line() {
        for (raw, retry) in [
            (&b"data: 1\n\n"[..], None),
            (b"data\n\n", None),
            (b"data:1\r\r", None),
            (b"data: 1\nretry: 5\n\n", Some(5)),
            (b"data:\nretry:5\n\n", Some(5)),
            (b"id: 1\nretry: 5\ndata: 1\n\n", Some(5)),
            (b"retry: 5\n\n", Some(5)),
        ] {
            let expected = retry.map(Duration::from_millis);
            assert_eq!(block(raw).retry(), expected, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn has_one_data_line_of_compares_the_number_of_lines_and_the_size() {
        let matches = |raw| [2, 3].map(|size| block(raw).has_one_data_line_of(size));
        assert_eq!(matches(b"id: 1\ndata: abc\n\n"), [false, true]);
        assert_eq!(matches(b"data: ab\n\n"), [true, false]);
        assert_eq!(matches(b"data: abc\ndata: abc\n\n"), [false, false]);
        assert_eq!(matches(b"event: abc\n\n"), [false, false]);
    }

    #[test]
    fn repair_utf8_replaces_ill_formed_sequences_only() {
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
    fn without_comments_drops_a_block_of_comments() {
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
    fn equality_compares_bytes_and_completeness() {
        assert_eq!(block(b"data: a\n\n"), Event::new("a").into_block());
        assert_ne!(block(b"data: a\n\n"), Event::new("b").into_block());
        let unfinished = block(b"data: a");
        assert_ne!(unfinished, Block::from_raw(b"data: a".to_vec(), true));
        assert!(!unfinished.has_id() && block(b"id\n\n").has_id());
    }

    #[test]
    fn edit_of_an_unfinished_block_leaves_it_unfinished() {
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
    fn debug_output_has_sizes_and_no_text() {
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
    fn error_messages_name_the_allowed_values() {
        let error = Event::new("a").set_id("1\n2").unwrap_err().to_string();
        assert!(
            error.contains("`id`") && error.contains("without CR, LF and NUL"),
            "{error}"
        );
        let error = crate::codec::EventTooLarge { limit: 7 }.to_string();
        assert!(error.contains("7 bytes"), "{error}");
    }

    #[test]
    fn data_of_one_line_is_borrowed() {
        assert!(matches!(Event::new("a").data(), Cow::Borrowed("a")));
        assert!(matches!(Event::new("a\nb").data(), Cow::Owned(_)));
    }

    #[test]
    fn raw_bytes_of_all_items_are_the_input() {
        let mut decoder = Decoder::default();
        let wire = b"\xef\xbb\xbfdata: a\r\r";
        decoder.push(wire[..].into());
        let mut raw = Vec::new();
        while let Some(item) = decoder.next_item().unwrap() {
            raw.extend_from_slice(&item.into_raw());
        }
        decoder.push("\n: b\n".into());
        while let Some(item) = decoder.next_item().unwrap() {
            raw.extend_from_slice(&item.into_raw());
        }
        assert_eq!(raw, [&wire[..], b"\n: b\n"].concat());
    }
}
