//! The events of a recorded stream: a log that one task writes and clients read.
//!
//! [`event_log::Log`] is the log itself, without clock and I/O. [`SharedLog`] adds the lock, the readers and the writer. A
//! [`Reader`] is the source of one client's response body. The [`LogEncoder`] gives events their ids on the way into the log.
//!
//! ```text
//! LogEncoder -> SharedLog { Log { Blocks } } <- Reader (one for each client)
//! ```

mod blocks;
mod cursor;
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
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use id::{EventId, MalformedEventId};
pub use retention::Retention;
pub use shared_log::StartAt;

#[cfg(test)]
pub(crate) use blocks::SINGLE_BLOCK_OVERHEAD;
pub(crate) use cursor::{Cursor, LogState, ReadResult, ResumePoint};
pub(crate) use encoder::LogEncoder;
pub(crate) use id::Position;
pub(crate) use reader::Reader;
pub(crate) use shared_log::{CursorLookup, Ending, Protected, SharedLog, WriteDemand};
