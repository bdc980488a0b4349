//! Judges text that is split over events.
//!
//! The answer of a model arrives in small parts, so the events of one phrase must be seen together. A [`TextWindow`] joins the
//! parts of each text, shows the text to a [`Judge`] before it is sent, and applies the decision to the events that carry the
//! text. Events without a mask leave byte-identical.
//!
//! ```
//! use std::time::Duration;
//! use tower_sse_proxy::{SseProxyLayer, intercept::window::{Decision, TextSegment, TextWindow}};
//!
//! let names = TextWindow::new(|segment: &TextSegment| {
//!     let found = segment.text.match_indices("Alice");
//!     Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]")
//! })
//! .overlap("Alice".len())
//! .max_delay(Duration::from_millis(200));
//! let layer = SseProxyLayer::default().intercept(names);
//! ```
//!
//! # Patterns
//!
//! With the feature `patterns`, the function `patterns` makes a judge of phrases, regular expressions, card numbers and e-mail
//! addresses. It knows the byte at which a match may be in progress: text before that byte is sent at once, and the rest is
//! held until it is decided. No part of a match is sent, however slowly the text arrives, and text that cannot begin a match
//! is not delayed. Other judges can do the same with [`Decision::Hold`].
//!
//! # Which text the judge sees
//!
//! * A **channel** is one text that several events carry: one choice, one content block, or the arguments of one tool call. A
//!   [`TextExtractor`] assigns strings to channels. [`extract`] has extractors for OpenAI chat completions and Responses,
//!   Anthropic messages, Gemini, and plain data. The default recognizes each of them.
//! * Each other string of an event, at any depth and under any name, is a complete text of its event.
//! * The judge sees strings as readers do: with escapes undone, also those of unpaired surrogates. A string may contain JSON
//!   again, such as the arguments of a tool call. If a string still has escapes, the judge therefore sees it a second time, with these
//!   escapes undone too. Data that is not JSON is judged as it is, and with one and with two layers of escapes undone. Text that the
//!   judge holds, masks or blocks in one of these readings is held, masked or blocked.
//! * Text that continues a finished channel is judged together with the text before it. The window remembers at least the last
//!   1024 finished channels.
//! * Names of object members, comments, and the `event` and `id` fields are not judged.
//!
//! # JSON bodies
//!
//! With [`inspect_json`](crate::Policy::inspect_json), a window also judges JSON bodies. The same text gets the same decision in both
//! shapes:
//!
//! * The extractors know the answers of the APIs without streaming. A text has the channel that it has in the stream, such as that of
//!   `choices[0].delta.content` for `choices[0].message.content`.
//! * All texts of a body are [complete](TextSegment::complete), so nothing is held, and the limits of time and size do not apply.
//! * The client gets the body with the masks applied. In place of a blocked body it gets
//!   [`blocked_status`](crate::Policy::blocked_status), also with [`on_block`](TextWindow::on_block), whose events belong to a stream.
//! * A body that readers may interpret differently, or that has too many texts, is answered with 502; see [errors](#errors).
//!
//! # When text is sent
//!
//! * The window holds an event until [`overlap`](TextWindow::overlap) more bytes of its text have arrived, so that the judge
//!   sees a match of at most that length as a whole before its first byte is sent. It holds an event at most for
//!   [`max_delay`](TextWindow::max_delay); the judge sees this text once more, marked as [sent](TextSegment::sent), with the
//!   text that follows. With patterns, neither the overlap nor the delay applies unless it is set.
//! * The window sends whole events: it holds an event until all of its texts may be sent.
//! * Events stay in order over all channels: a held event delays the events after it.
//! * When a stream ends cleanly, all channels are [complete](TextSegment::complete). When a stream fails, the window drops text
//!   that it holds as the possible beginning of a match.
//! * Text that is sent undecided, because [`max_delay`](TextWindow::max_delay) or
//!   [`max_held_bytes`](TextWindow::max_held_bytes) was reached, is counted ([`TextWindow::early_releases`]) and logged by size.
//! * When a mask changes an event, members of the event that repeat its text token by token (`logprobs`) are emptied.
//!
//! # Errors
//!
//! An event that readers may interpret differently is a failure of the interceptor, and the stream is cut unless
//! [`fail_open`](TextWindow::fail_open) is set. Such events have an object with two members of the same name, JSON nested more
//! than 32 levels deep, or an index that may equal a number, such as `"0"`. Events with more than 262,144 strings and unsigned
//! integers fail too, because they would hold their thread and its memory for too long.

mod batch;
mod batch_verdict;
mod channel_key;
mod channel_name;
mod decision;
mod early;
mod edit;
pub mod extract;
mod find;
mod held;
mod item;
mod judge;
mod leaves;
mod masks;
mod open_window;
#[cfg(feature = "patterns")]
mod patterns;
mod questions;
mod reading;
mod scan;
mod settings;
mod texts;

pub use decision::{Decision, Mask, TextSegment};
pub use early::EarlyReleases;
pub use judge::{DecisionFuture, Judge, JudgeService};
#[cfg(feature = "patterns")]
#[cfg_attr(docsrs, doc(cfg(feature = "patterns")))]
pub use patterns::{Pattern, PatternError, Patterns, patterns};
pub use settings::TextWindow;
pub use texts::{TextExtractor, Texts};
