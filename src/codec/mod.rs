//! The wire format of event streams: bytes to blocks and back.
//!
//! This is the sans-IO core, of use by itself: it knows nothing of HTTP, tasks or clocks. A [`Decoder`]
//! turns chunks into [`Item`]s by the rules of WHATWG HTML 9.2.5 and 9.2.6; an [`Event`] or [`Block`] is
//! its bytes on the wire plus ways to read and to edit them.
//!
//! ```
//! use tower_sse_proxy::codec::{Decoder, Item};
//!
//! let mut decoder = Decoder::default();
//! let mut out = Vec::new();
//! for chunk in ["event: greet", "ing\nda", "ta: hello\n\n: still here\n"] {
//!     decoder.push(chunk.into());
//!     while let Some(piece) = decoder.next_item()? {
//!         match piece {
//!             Item::Event(event) => out.push(format!("{}: {}", event.event_type(), event.data())),
//!             Item::Block(block) => out.extend(block.comments().map(|c| format!("comment: {c}"))),
//!             _ => {}
//!         }
//!     }
//! }
//! // At the end of the input, `decoder.finish()` has what was never complete.
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
mod text;

pub use block::Block;
pub use decoder::Decoder;
pub use encode::FieldError;
pub use event::Event;
pub use item::{EventTooLarge, Item, OversizedEvent, SplitLineFeed};
pub use lines::Line;

pub(crate) use block_meta::PendingLf;
pub(crate) use chunk_slice::ChunkSlice;
pub(crate) use edit::{with_id, without_id};
pub(crate) use item::BOM;
pub(crate) use lines::id_of;
