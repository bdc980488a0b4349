//! The results of a decoder: items, or the error for an event that is too large.

use std::fmt;

use bytes::Bytes;

use crate::codec::{block::Block, block_meta::PendingLf, event::Event};

/// U+FEFF in UTF-8.
pub(crate) const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// A part of an event stream, as [`Decoder::next_item`](super::Decoder::next_item) returns it.
///
/// The bytes of all items, joined in order, are the bytes of the stream.
///
/// ```
/// use tower_sse_proxy::codec::{Decoder, Item};
///
/// let mut decoder = Decoder::default();
/// decoder.push("data: a\r\r".into());
/// // The second CR ends the block; the decoder does not wait for an LF.
/// let Some(Item::Event(event)) = decoder.next_item()? else { panic!() };
/// assert_eq!(event.data(), "a");
///
/// decoder.push("\ndata: b\r\n\r\n".into());
/// assert!(matches!(decoder.next_item()?, Some(Item::SplitLineFeed(_))));
/// assert!(matches!(decoder.next_item()?, Some(Item::Event(b)) if b.data() == "b"));
/// # Ok::<(), tower_sse_proxy::codec::EventTooLarge>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The byte order mark at the start of the stream (WHATWG HTML 9.2.5: `stream = [ bom ] *event`). U+FEFF anywhere else is text.
    Bom,
    /// A block that a client dispatches as an event (WHATWG HTML 9.2.6).
    Event(Event),
    /// A block that a client does not dispatch: comments, `id`, `retry` or unknown fields without `data`, or a single blank line.
    Block(Block),
    /// The LF of a CRLF. The decoder returned the block before it when it read the CR, in an earlier chunk.
    SplitLineFeed(SplitLineFeed),
}

impl Item {
    /// A complete block, or the unfinished block at the end of a stream.
    #[inline(always)]
    pub(super) fn of(block: Block) -> Self {
        if block.is_event() {
            Item::Event(Event::of(block))
        } else {
            Item::Block(block)
        }
    }

    /// The bytes on the wire.
    ///
    /// Write the LF of an [`Item::SplitLineFeed`] only if the block before it was written unchanged. After an edited or dropped
    /// block the LF would be a blank line.
    pub fn into_raw(self) -> Bytes {
        match self {
            Item::Bom => Bytes::from_static(&BOM),
            Item::Event(event) => event.into_block().into_raw(),
            Item::Block(block) => block.into_raw(),
            Item::SplitLineFeed(_) => Bytes::from_static(b"\n"),
        }
    }
}

/// Identifies the block whose last line end an LF completes. See [`Item::SplitLineFeed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitLineFeed(pub(crate) PendingLf);

/// How a decoder treats a block that is larger than its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OversizedEvent {
    /// The decoder returns [`EventTooLarge`] and ends, so that the output is never taken for the whole stream.
    #[default]
    Fail,
    /// The decoder skips the block and continues with the next one.
    Discard,
}

/// The error for a block, or one line of it, that is larger than the limit of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge {
    /// The limit in bytes.
    pub limit: usize,
}

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an event is larger than the limit of {} bytes",
            self.limit
        )
    }
}

impl std::error::Error for EventTooLarge {}
