//! The texts that a judge sees, and its decisions.

use std::{fmt, ops::Range};

/// A text to judge: the held text of a channel, and the end of the text that was sent before it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextSegment {
    /// The text.
    pub text: String,
    /// The number of bytes at the beginning of the text that were sent already and cannot change. The judge sees them to
    /// recognize matches that begin in them.
    pub sent: usize,
    /// The channel of the text, as the [`TextExtractor`](super::TextExtractor) named it. `None` for a text that belongs to one
    /// event only.
    pub channel: Option<String>,
    /// Whether the text is complete: the API finished it, the stream ended cleanly, or it belongs to one event only. Otherwise
    /// more text may follow, and the end of this text may begin a match.
    pub complete: bool,
}

/// Shows the size, never the text.
impl fmt::Debug for TextSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextSegment")
            .field("bytes", &self.text.len())
            .field("sent", &self.sent)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

/// What happens to a [`TextSegment`].
///
/// A window may show the same text again, together with the text that follows it. A judge should then come to the same
/// decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Sends the text unchanged.
    Pass,
    /// Sends the text with these ranges replaced.
    Mask(Vec<Mask>),
    /// Sends the text before `from` with the masks applied, and holds the rest, because it may begin a match.
    ///
    /// The window sends an event once all of its text lies before `from`, and asks the judge again when more text arrives. It
    /// sends all of a [complete](TextSegment::complete) text. It drops held text when the stream fails.
    ///
    /// Use it with [`overlap(0)`](super::TextWindow::overlap), and with a [`max_delay`](super::TextWindow::max_delay) that is long
    /// enough for the rest of a match to arrive.
    Hold {
        /// A byte offset in the text, at most its length. If it is the length, nothing is held.
        from: usize,
        /// The ranges to replace.
        masks: Vec<Mask>,
    },
    /// Ends the stream before this text. See [`TextWindow::on_block`](super::TextWindow::on_block).
    Block,
}

impl Decision {
    /// Holds the text from this byte on, because it may begin a match. Keeps the masks of `self`; [`Block`](Self::Block) stays
    /// as it is. See [`Hold`](Self::Hold).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse_proxy::intercept::window::{Decision, TextSegment, TextWindow};
    ///
    /// fn no_names(segment: &TextSegment) -> Decision {
    ///     let found = segment.text.match_indices("Alice");
    ///     let decision = Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]");
    ///     // "A", "Al", "Ali" or "Alic" at the end may become the name.
    ///     let begun = (1..5).rev().find(|&size| segment.text.ends_with(&"Alice"[..size]));
    ///     decision.hold_from(segment.text.len() - begun.unwrap_or(0))
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

    /// Replaces each of these byte ranges by the same text. Passes if there are none.
    ///
    /// ```
    /// use tower_sse_proxy::intercept::window::{Decision, TextSegment};
    ///
    /// fn no_names(segment: &TextSegment) -> Decision {
    ///     let found = segment.text.match_indices("Alice");
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

/// A range of a text, and its replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Byte offsets in the text of the [`TextSegment`], at character boundaries. An empty range replaces nothing. A range
    /// outside the text or inside a character is a failure of the interceptor.
    pub range: Range<usize>,
    /// The replacement. The event in which the range begins gets all of it; later events lose the rest of the range.
    pub with: String,
}
