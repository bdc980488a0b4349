//! The events of a recorded stream.

mod encoder;
pub(crate) mod event_log;
mod id;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod reader;
pub(crate) mod shared_log;
mod sync;
#[cfg(test)]
mod tests;

pub use event_log::{Bounds, Cursor, Located, Log, Read, State};
pub use id::{EventId, MalformedEventId, Position, Token};
pub use shared_log::Join;

pub(crate) use encoder::Stamp;
pub(crate) use reader::Reader;
pub(crate) use shared_log::{Channel, Demand, Ending, Place};
