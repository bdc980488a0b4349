//! The texts that a judge sees, and its decisions.

use std::{fmt, ops::Range};

/// A text to judge: all of a channel that is still held back, and some that has left before it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextSegment {
    /// The text.
    pub text: String,
    /// So many bytes at its beginning have left already and cannot be changed. They are there so that what began in them
    /// is recognised.
    pub sent: usize,
    /// The channel that this is part of, as the [`TextExtractor`](super::TextExtractor) named it; `None` for a text that stands by
    /// itself.
    pub channel: Option<String>,
    /// Whether the text ends here: its API said so, the stream ended cleanly, or it stands by itself. If not, more may
    /// follow, and the end of the text may be the beginning of a match.
    pub complete: bool,
}

/// Shows the size, never the text.
impl fmt::Debug for TextSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage")
            .field("bytes", &self.text.len())
            .field("sent", &self.sent)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// What becomes of a [`TextSegment`].
///
/// The same text may be judged again together with what came after it, so a judge should come to the same result again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It may leave.
    Pass,
    /// These parts leave as something else.
    Mask(Vec<Mask>),
    /// These parts leave as something else, and the text from this byte on waits for what follows: it may be the beginning
    /// of a match.
    ///
    /// An event leaves once all of its text stands before that byte; the judge is asked again when more has come. A
    /// [complete](TextSegment::complete) passage is not held: all of it leaves. Of a stream that breaks, held text does
    /// not leave.
    ///
    /// This is of use with [`overlap(0)`](super::TextWindow::overlap), and with a [`time`](super::TextWindow::max_delay) that is long
    /// enough for the rest of a match to come.
    Hold {
        /// In bytes of the passage's text. The size of the text, if all of it may leave.
        from: usize,
        /// What leaves as something else.
        masks: Vec<Mask>,
    },
    /// It must not leave: the stream ends here. See [`TextWindow::on_block`](super::TextWindow::on_block).
    Block,
}

impl Decision {
    /// Lets the text leave up to this byte, and holds the rest: it may be the beginning of a match.
    /// See [`Hold`](Self::Hold).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse_proxy::intercept::window::{Decision, TextSegment, TextWindow};
    ///
    /// fn no_names(passage: &TextSegment) -> Decision {
    ///     let found = passage.text.match_indices("Alice");
    ///     let decided = Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]");
    ///     // "A", "Al", "Ali" or "Alic" at the end may become the name.
    ///     let begun = (1..5).rev().find(|&size| passage.text.ends_with(&"Alice"[..size]));
    ///     decided.hold_from(passage.text.len() - begun.unwrap_or(0))
    /// }
    /// let window = TextWindow::new(no_names).overlap(0).max_delay(Duration::MAX);
    /// ```
    pub fn hold_from(self, from: usize) -> Self {
        let masks = match self {
            Decision::Pass => Vec::new(),
            Decision::Mask(masks) | Decision::Hold { masks, .. } => masks,
            Decision::Block => return Decision::Block,
        };
        Decision::Hold { from, masks }
    }

    /// Masks all of these byte ranges with the same text; passes if there are none.
    ///
    /// ```
    /// use tower_sse_proxy::intercept::window::{Decision, TextSegment};
    ///
    /// fn no_names(passage: &TextSegment) -> Decision {
    ///     let found = passage.text.match_indices("Alice");
    ///     Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]")
    /// }
    /// ```
    pub fn mask(ranges: impl IntoIterator<Item = Range<usize>>, with: impl Into<String>) -> Self {
        let with = with.into();
        let masks: Vec<_> = ranges
            .into_iter()
            .map(|range| Mask {
                range,
                with: with.clone(),
            })
            .collect();
        if masks.is_empty() {
            Decision::Pass
        } else {
            Decision::Mask(masks)
        }
    }
}

/// A part of a passage, and what is to stand in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// In bytes of the passage's text; at the boundaries of characters. An empty range masks nothing.
    pub range: Range<usize>,
    /// Stands where the range begins. The rest of the range, in whatever events it is, is empty.
    pub with: String,
}
