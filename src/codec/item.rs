//! What a decoder hands out.

use std::fmt;

use bytes::Bytes;

use crate::codec::{block::Block, block_meta::PendingLf, event::Event};

/// U+FEFF in UTF-8.
pub(crate) const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// A part of the stream. All of them joined are the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The byte order mark that opened the stream (WHATWG HTML 9.2.5). A second one is text.
    Bom,
    /// A block that a client dispatches.
    Event(Event),
    /// Any other block: comments, an id, a `retry`, unknown fields, or only a blank line.
    Block(Block),
    /// The LF of a CRLF whose CR ended a piece that is already out.
    SplitLineFeed(SplitLineFeed),
}

impl Item {
    /// The bytes on the wire. A [late LF](Item::SplitLineFeed) is to be written only if the piece before it was
    /// written as it came: of an edited or dropped one it would be a stray blank line.
    pub fn into_raw(self) -> Bytes {
        match self {
            Item::Bom => Bytes::from_static(&BOM),
            Item::Event(event) => event.into_block().into_raw(),
            Item::Block(block) => block.into_raw(),
            Item::SplitLineFeed(_) => Bytes::from_static(b"\n"),
        }
    }
}

/// Stands for an LF that came after its CR had already ended the piece before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitLineFeed(pub(crate) PendingLf);

/// A block, or one line, is larger than the decoder's limit.
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
