//! Decodes, reads, edits and writes event streams (`text/event-stream`).
//!
//! The module does no I/O and does not depend on HTTP, tasks or clocks, so it can be used without the rest of the crate.
//!
//! * A [`Decoder`] splits chunks of bytes into [`Item`]s by the rules of WHATWG HTML
//!   [9.2.5](https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream) and
//!   [9.2.6](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).
//! * A [`Block`] is the lines up to a blank line. It holds its bytes on the wire, and methods read the fields from them.
//! * An [`Event`] is a block with data, which a client dispatches. It can be edited.
//!
//! ```
//! use tower_sse_proxy::codec::{Decoder, Item};
//!
//! let mut decoder = Decoder::default();
//! let mut out = Vec::new();
//! for chunk in ["event: greet", "ing\nda", "ta: hello\n\n: still here\n"] {
//!     decoder.push(chunk.into());
//!     while let Some(item) = decoder.next_item()? {
//!         match item {
//!             Item::Event(event) => out.push(format!("{}: {}", event.event_type(), event.data())),
//!             Item::Block(block) => out.extend(block.comments().map(|c| format!("comment: {c}"))),
//!             _ => {}
//!         }
//!     }
//! }
//! // At the end of the stream, `decoder.finish()` returns an unfinished block.
//! assert_eq!(out, ["greeting: hello", "comment: still here"]);
//! # Ok::<(), tower_sse_proxy::codec::EventTooLarge>(())
//! ```

mod block;
mod block_meta;
mod chunk;
mod chunk_slice;
mod decoder;
mod edit;
mod encode;
mod event;
mod input;
mod item;
mod lines;
mod lookahead;
mod utf8;

pub use block::Block;
pub use decoder::Decoder;
pub use encode::FieldError;
pub use event::Event;
pub use item::{EventTooLarge, Item, OversizedEvent, SplitLineFeed};
pub use lines::Line;

pub(crate) use block_meta::PendingLf;
pub(crate) use chunk_slice::ChunkSlice;
#[cfg(feature = "replay")]
pub(crate) use edit::{with_id, without_id};
pub(crate) use item::BOM;
#[cfg(feature = "replay")]
pub(crate) use lines::id_of;
