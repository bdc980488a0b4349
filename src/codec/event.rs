//! Events: the blocks that a client dispatches.

use std::{borrow::Cow, fmt, ops::Deref, time::Duration};

use super::{
    block::Block,
    edit,
    encode::{self, FieldError},
    lines::{LineRanges, value_of},
};

/// A block with a `data` line. A client dispatches it as one message (WHATWG HTML 9.2.6).
///
/// An `Event` reads its fields on demand. An event that is not edited is byte-identical to the input.
///
/// An edit rewrites the block at once. Each line of the data becomes one `data` line, and an id or a type with a line end is
/// rejected, so a value cannot inject another field. All other lines of the block stay. All lines of an edited event end in LF,
/// also if they ended in CR or CRLF before.
///
/// ```
/// use tower_sse_proxy::Event;
///
/// let mut event = Event::new("hello");
/// event.set_event("greeting")?;
/// event.set_id("7")?;
/// assert_eq!(event.raw(), "event: greeting\nid: 7\ndata: hello\n\n");
///
/// event.set_data("two\nlines");
/// assert_eq!(event.raw(), "event: greeting\nid: 7\ndata: two\ndata: lines\n\n");
///
/// assert!(event.set_id("8\ndata: injected").is_err());
/// # Ok::<(), tower_sse_proxy::codec::FieldError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Event(Block);

impl Event {
    /// An event without a type and an id. Each line of `data` (ended by LF, CR or CRLF) becomes one `data` line.
    pub fn new(data: impl AsRef<str>) -> Self {
        let data = data.as_ref();
        let mut raw = Vec::with_capacity(data.len() + 8);
        encode::data(&mut raw, data);
        raw.push(b'\n');
        Self(Block::from_raw(raw, true))
    }

    /// Converts a block into an event.
    ///
    /// # Errors
    /// Returns the block if it has no `data` line.
    #[inline]
    pub fn from_block(block: Block) -> Result<Self, Block> {
        if block.is_event() {
            Ok(Self(block))
        } else {
            Err(block)
        }
    }

    /// Converts a block that has a `data` line.
    #[inline]
    pub(crate) fn of(block: Block) -> Self {
        debug_assert!(block.is_event());
        Self(block)
    }

    /// The data that a client reads: the values of all `data` lines, joined by LF (WHATWG HTML 9.2.6).
    ///
    /// Ill-formed UTF-8 reads as U+FFFD. The result is borrowed if there is one `data` line and it is well-formed.
    #[inline]
    pub fn data(&self) -> Cow<'_, str> {
        let block = &self.0;
        // `first_data` holds offsets below 4 GiB. An edit can make an event larger than that.
        if block.meta.data_lines() == 1 && block.slice.len() <= u32::MAX as usize {
            return block.slice.text(block.meta.first_data());
        }
        Cow::Owned(self.joined_data_lines())
    }

    /// The values of several `data` lines. Most events have one line, so this is a separate cold function.
    #[cold]
    fn joined_data_lines(&self) -> String {
        let block = &self.0;
        // CR and LF are never part of an ill-formed sequence, so the text can be decoded before it is split into lines.
        let text = block.slice.text(0..block.slice.len());
        let mut data = String::with_capacity(text.len());
        for line in LineRanges::new(text.as_bytes()) {
            let line = &text[line];
            if let Some(value) = value_of(line.as_bytes(), b"data") {
                data.push_str(&line[value..]);
                data.push('\n');
            }
        }
        data.pop();
        data
    }

    /// The type that a client dispatches: the last `event` field, or `message` if it is absent or empty (WHATWG HTML 9.2.6).
    pub fn event_type(&self) -> Cow<'_, str> {
        match self.0.event_field() {
            Some(name) if !name.is_empty() => name,
            _ => Cow::Borrowed("message"),
        }
    }

    /// Replaces all `data` lines with `data`.
    ///
    /// Each line of `data` (ended by LF, CR or CRLF) becomes one `data` line, and [`data`](Self::data) then reads the line ends
    /// as LF.
    pub fn set_data(&mut self, data: impl AsRef<str>) {
        self.0 = edit::replace_data(&self.0, data.as_ref());
    }

    /// Sets the `event` field: the type of the event.
    ///
    /// # Errors
    /// Returns [`FieldError`] if `name` contains CR, LF or NUL. The event is then unchanged.
    pub fn set_event(&mut self, name: impl AsRef<str>) -> Result<(), FieldError> {
        let name = encode::checked("event", name.as_ref())?;
        self.replace_field(b"event", |raw| encode::field(raw, b"event", name));
        Ok(())
    }

    /// Sets the `id` field. An empty id resets the client's last event id (WHATWG HTML 9.2.6).
    ///
    /// # Errors
    /// Returns [`FieldError`] if `id` contains CR, LF or NUL. The event is then unchanged.
    pub fn set_id(&mut self, id: impl AsRef<str>) -> Result<(), FieldError> {
        let id = encode::checked("id", id.as_ref())?;
        self.replace_field(b"id", |raw| encode::field(raw, b"id", id));
        Ok(())
    }

    /// Removes all `id` fields. A client then does not change its last event id.
    pub fn remove_id(&mut self) {
        self.replace_field(b"id", |_| {});
    }

    /// Sets the `retry` field: the client's reconnection time (WHATWG HTML 9.2.6), in whole milliseconds. A fraction is cut off.
    pub fn set_retry(&mut self, after: Duration) {
        self.replace_field(b"retry", |raw| {
            encode::field(raw, b"retry", after.as_millis().to_string().as_bytes());
        });
    }

    /// Copies the event out of its chunk if the chunk is much larger; see [`Block::into_owned`].
    pub fn into_owned(self) -> Self {
        Self(self.0.into_owned())
    }

    /// Converts the event into its block.
    pub fn into_block(self) -> Block {
        self.0
    }

    fn replace_field(&mut self, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        self.0 = edit::replace_field(&self.0, name, write);
    }
}

impl Deref for Event {
    type Target = Block;

    #[inline]
    fn deref(&self) -> &Block {
        &self.0
    }
}

impl From<Event> for Block {
    #[inline]
    fn from(event: Event) -> Self {
        event.0
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.0).finish()
    }
}
