//! A window on text that is split over events.
//!
//! A model's answer arrives a few letters an event, so what must not pass is never in one event alone. A [`TextWindow`] joins
//! the letters of each text, shows them to a [`Judge`] before they leave, and carries out its judgement in the events that
//! brought them: what was not changed leaves as it came.
//!
//! ```
//! use std::time::Duration;
//! use tower_sse_proxy::{SseProxyLayer, intercept::window::{Decision, TextSegment, TextWindow}};
//!
//! let names = TextWindow::new(|passage: &TextSegment| {
//!     let found = passage.text.match_indices("Alice");
//!     Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]")
//! })
//! .overlap("Alice".len())
//! .max_delay(Duration::from_millis(200));
//! let layer = SseProxyLayer::default().intercept(names);
//! ```
//!
//! # Patterns
//!
//! With the feature `patterns`, `patterns` makes a judge of phrases, regular expressions, card numbers and e-mail addresses.
//! It knows at which byte a match may be in progress: text before that byte leaves at once, and the rest waits until it is
//! decided. No part of a match leaves, however slowly the text comes, and text that cannot begin a match is not delayed.
//! Any other judge can answer in the same way, with [`Decision::Hold`].
//!
//! # What is seen, and when it leaves
//!
//! * A text is a **channel**: one choice, one content block, the arguments of one tool call. What belongs to a channel is
//!   told by an [`TextExtractor`]; [`extract`] has those of OpenAI's chat completions and Responses, Anthropic's messages,
//!   Gemini, and plain data, and by default they are told apart by themselves. Every other string of an event is judged
//!   by itself.
//! * An event waits until [`overlap`](TextWindow::overlap) more bytes of its text have come, so that anything of at most that
//!   size is seen whole before its first letter leaves. It never waits longer than [`time`](TextWindow::max_delay); what then
//!   still lacks its end leaves, and the judge sees it again, as [sent](TextSegment::sent), with what comes. (With patterns
//!   neither of the two holds unless it is set.)
//! * An event waits for all of its text, and leaves whole.
//! * A stream that ends cleanly ends its texts: what was held is judged as [complete](TextSegment::complete). Of a stream that
//!   breaks, text that was held as the possible beginning of a match does not leave.
//! * Text that has to leave before it is decided, since [`time`](TextWindow::max_delay) or [`max_bytes`](TextWindow::max_held_bytes) ran out,
//!   is counted ([`TextWindow::early_releases`]) and logged, as its size.
//! * Order is kept, over all channels: an event that waits holds up those behind it.
//! * Every string value is judged as readers read it: escapes undone, unpaired surrogates included, at any depth and under
//!   any name. A string may hold JSON itself, such as the arguments of a tool call: a text with escapes is judged a second
//!   time with those undone. Data that is not JSON is judged as it is, and with the escapes of one and of two layers undone.
//!   A judge that is asked twice about a text has to let both readings pass: what it holds, masks or blocks in one of them
//!   is held, masked or blocked.
//! * What cannot be read in one way only (an object that has a name twice, JSON nested more than 32 deep, an index that may
//!   or may not be the same as a number) is a failure of the interceptor: the stream is cut.
//! * A text that continues after its end is the same text. The last 1024 that ended are remembered at least.
//! * When a text is masked, members of its event that tell it again token by token (`logprobs`) are emptied.
//! * Names of object members, comments, and the `event` and `id` fields are not text, and are not judged.

mod batch;
mod channel;
mod channel_key;
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
mod outcome;
#[cfg(feature = "patterns")]
mod patterns;
mod questions;
mod reading;
mod scan;
mod settings;
mod texts;

pub use decision::{Decision, Mask, TextSegment};
pub use early::EarlyReleases;
pub use judge::{Judge, JudgeService, Ruling};
#[cfg(feature = "patterns")]
#[cfg_attr(docsrs, doc(cfg(feature = "patterns")))]
pub use patterns::{Pattern, PatternError, Patterns, patterns};
pub use settings::TextWindow;
pub use texts::{TextExtractor, Texts};
