//! Searches a text in blocks.

use std::sync::Arc;

use memchr::memmem::Finder;
use tower_sse_proxy::{
    Event,
    codec::{Block, Line},
};

/// A text to search for in all values of a block: data, event, id, retry, comments, and the names and values of unknown fields.
///
/// Most blocks do not contain the text. So the search first looks in the bytes of the block for a part of the text that is
/// contiguous there if any value contains the text. Only if it finds that part, it searches the values one by one.
#[derive(Clone)]
pub struct Text(Arc<Parts>);

struct Parts {
    text: Finder<'static>,
    piece: Finder<'static>,
    /// The text may match across name and value of an unknown field, which is searched as `name:value` and as `name: value`.
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

    /// Whether any value of an event contains the text.
    pub fn is_in(&self, event: &Event) -> bool {
        self.may_be_in(event) && (self.found(event.data().as_bytes()) || self.is_in_values(event))
    }

    /// Whether the data of an event contains the text.
    pub fn is_in_data(&self, event: &Event) -> bool {
        self.may_be_in(event) && self.found(event.data().as_bytes())
    }

    /// Whether any value of a block contains the text. Data lines are searched one by one.
    pub fn is_in_a_line(&self, block: &Block) -> bool {
        self.may_be_in(block) && self.is_in_values(block)
    }

    /// Whether a value may contain the text. If this is false, no value contains it.
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

/// The longest part of a text that is contiguous in the bytes of a block if a value of the block contains the text.
///
/// The text is split where its bytes may differ from the block's: at a line feed (between two data lines), at a colon with or
/// without a space (between name and value), and at U+FFFD (for bytes that are not UTF-8). Each part is within one line.
fn piece(text: &str) -> &str {
    let lines = text.split(['\n', char::REPLACEMENT_CHARACTER]);
    let pieces = lines.flat_map(|line| line.split(':'));
    let pieces = pieces.map(|piece| piece.strip_prefix(' ').unwrap_or(piece));
    pieces.max_by_key(|piece| piece.len()).unwrap_or_default()
}
