//! Events: blocks that a client dispatches.

use std::{borrow::Cow, fmt, ops::Deref, time::Duration};

use super::{
    block::Block,
    edit,
    encode::{self, FieldError},
    lines::{LineRanges, value_of},
};

/// A block with data: what a client dispatches as one message.
///
/// Reading is free of side effects and lazy; an event that is only read leaves byte-identical. An edit
/// rewrites the block at once and safely: the data's line ends become several `data` lines, and an id or a
/// type that could break out of its line is refused. Whatever else the block holds stays. Lines of an edited event end in
/// LF, whatever they ended in before.
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
    /// An event of no type and no id. Line ends in `data` (LF, CR, CRLF) make several `data` lines.
    pub fn new(data: impl AsRef<str>) -> Self {
        let data = data.as_ref();
        let mut raw = Vec::with_capacity(data.len() + 8);
        encode::data(&mut raw, data);
        raw.push(b'\n');
        Self(Block::from_raw(raw, true))
    }

    /// The block as an event, or the block again if it has no data.
    #[inline]
    pub fn from_block(block: Block) -> Result<Self, Block> {
        if block.is_event() {
            Ok(Self(block))
        } else {
            Err(block)
        }
    }

    /// A block that is known to have data.
    #[inline]
    pub(crate) fn of(block: Block) -> Self {
        debug_assert!(block.is_event());
        Self(block)
    }

    /// The data a client gets: the values of all `data` lines, joined by LF (WHATWG HTML 9.2.6).
    ///
    /// Borrowed when there is one line and it is valid UTF-8; ill-formed UTF-8 reads as U+FFFD.
    #[inline]
    pub fn data(&self) -> Cow<'_, str> {
        let block = &self.0;
        // An edit can make an event larger than what the notes can point into.
        if block.meta.data_lines() == 1 && block.slice.len() <= u32::MAX as usize {
            return block.slice.text(block.meta.first_data());
        }
        Cow::Owned(self.joined_data_lines())
    }

    /// The values of several `data` lines. Out of the way of the one line that most events have.
    #[cold]
    fn joined_data_lines(&self) -> String {
        let block = &self.0;
        // A line end is never part of an ill-formed sequence: the text of the lines is the lines of the text.
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

    /// The type a client dispatches: the `event` field, or `message` where it is absent or empty.
    pub fn event_type(&self) -> Cow<'_, str> {
        match self.0.event_field() {
            Some(name) if !name.is_empty() => name,
            _ => Cow::Borrowed("message"),
        }
    }

    /// Puts `data` in place of all `data` lines. Line ends (LF, CR, CRLF) make several lines, so
    /// [`data`](Self::data) then reads them as LF.
    pub fn set_data(&mut self, data: impl AsRef<str>) {
        self.0 = edit::replace_data(&self.0, data.as_ref());
    }

    /// Sets the `event` field.
    ///
    /// # Errors
    /// A CR, LF or NUL in the name: it would end the line, and what follows would be a field of its own.
    pub fn set_event(&mut self, name: impl AsRef<str>) -> Result<(), FieldError> {
        let name = encode::checked("event", name.as_ref())?;
        self.replace_field(b"event", |raw| encode::field(raw, b"event", name));
        Ok(())
    }

    /// Sets the `id` field. An empty id resets the client's last event id.
    ///
    /// # Errors
    /// A CR or LF, which would end the line, or a NUL, for which clients ignore the field.
    pub fn set_id(&mut self, id: impl AsRef<str>) -> Result<(), FieldError> {
        let id = encode::checked("id", id.as_ref())?;
        self.replace_field(b"id", |raw| encode::field(raw, b"id", id));
        Ok(())
    }

    /// Removes the `id` field: the client keeps the last id it has.
    pub fn remove_id(&mut self) {
        self.replace_field(b"id", |_| {});
    }

    /// Sets the `retry` field, in whole milliseconds.
    pub fn set_retry(&mut self, after: Duration) {
        self.replace_field(b"retry", |raw| {
            encode::field(raw, b"retry", after.as_millis().to_string().as_bytes());
        });
    }

    /// The same event in a buffer of its own; see [`Block::into_owned`].
    pub fn into_owned(self) -> Self {
        Self(self.0.into_owned())
    }

    /// Takes the block.
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
