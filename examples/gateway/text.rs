//! A text that is looked for in blocks.

use std::sync::Arc;

use memchr::memmem::Finder;
use tower_sse_proxy::{
    Event,
    codec::{Block, Line},
};

/// A text to look for in any value that a block can carry: data, event, id, retry, a comment, or a field that no client
/// knows, of which the name counts as well.
///
/// Most blocks have nothing of it, so the bytes of the block are searched once for a part of the text that stands there
/// in one piece if the text is in any value. Only if it does, the values are looked at one by one.
#[derive(Clone)]
pub struct Text(Arc<Parts>);

struct Parts {
    text: Finder<'static>,
    piece: Finder<'static>,
    /// An unknown field is also read as `name:value` and as `name: value`, however it was spelled.
    may_span_colon: bool,
}

impl Text {
    pub fn new(text: &str) -> Self {
        Self(Arc::new(Parts {
            text: Finder::new(text).into_owned(),
            piece: Finder::new(piece(text)).into_owned(),
            may_span_colon: text.contains(':') || text.starts_with(' '),
        }))
    }

    /// In any value of an event.
    pub fn is_in(&self, event: &Event) -> bool {
        self.may_be_in(event) && (self.found(event.data().as_bytes()) || self.is_in_values(event))
    }

    /// In the data of an event.
    pub fn is_in_data(&self, event: &Event) -> bool {
        self.may_be_in(event) && self.found(event.data().as_bytes())
    }

    /// In any value of a block that is not an event, or in one line of an event's data.
    pub fn is_in_a_line(&self, block: &Block) -> bool {
        self.may_be_in(block) && self.is_in_values(block)
    }

    /// Whether the text may be in a value. If not, it certainly is in none.
    fn may_be_in(&self, block: &Block) -> bool {
        self.0.piece.find(block.as_bytes()).is_some()
    }

    fn is_in_values(&self, block: &Block) -> bool {
        block.lines().any(|line| match line {
            Line::Comment(text) => self.found(text),
            Line::Field {
                name: b"data" | b"event" | b"id" | b"retry",
                value,
            } => self.found(value),
            Line::Field { name, value } => {
                self.found(name)
                    || self.found(value)
                    || self.0.may_span_colon
                        && (self.found(&[name, b":", value].concat())
                            || self.found(&[name, b": ", value].concat()))
            }
            _ => false,
        })
    }

    fn found(&self, text: &[u8]) -> bool {
        self.0.text.find(text).is_some()
    }
}

/// The longest part of a text that has to stand in the bytes of a block in one piece if the text is in a value of it.
///
/// A line feed may stand between two lines of data, a colon between the name and the value of a field, with or without a
/// space, and U+FFFD for bytes that are not UTF-8. What is left between those stands within one line.
fn piece(text: &str) -> &str {
    let lines = text.split(['\n', char::REPLACEMENT_CHARACTER]);
    let pieces = lines.flat_map(|line| line.split(':'));
    let pieces = pieces.map(|piece| piece.strip_prefix(' ').unwrap_or(piece));
    pieces.max_by_key(|piece| piece.len()).unwrap_or_default()
}
