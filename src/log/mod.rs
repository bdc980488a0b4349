//! The events of a recorded stream.

mod encoder;
pub(crate) mod event_log;
mod id;
pub(crate) mod last_event_id;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod reader;
mod retention;
pub(crate) mod shared_log;
mod sync;
#[cfg(test)]
mod tests;

pub use event_log::{Cursor, Log, LogState, ReadResult, ResumePoint};
pub use id::{EventId, MalformedEventId, Position, StreamId};
pub use retention::Retention;
pub use shared_log::StartAt;

pub(crate) use encoder::LogEncoder;
pub(crate) use reader::Reader;
pub(crate) use shared_log::{CursorLookup, Ending, SharedLog, WriteDemand};
