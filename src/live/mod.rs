//! Streams that are observed while they run: the upstream half of an attached stream in a slot that others can empty, and the clocks of
//! the watchdogs.
//!
//! A server does not poll a body while its client takes nothing. So an action that cannot wait for the next poll, such as the end of a
//! stream that an operator closes, cannot wait for the next poll: [`Attached`] shares the upstream half, and [`Housekeeper`] is the one
//! task of a layer that checks the watchdogs, and reports the progress of streams.

mod attached;
mod housekeeper;
mod jitter;
mod recheck;
mod slot;
mod unread;
mod watchdog;
mod watchdog_clock;

pub use watchdog::Watchdog;

pub(crate) use attached::Attached;
pub(crate) use housekeeper::{Checked, Housekeeper};
#[cfg(feature = "replay")]
pub(crate) use jitter::drain_retry;
pub(crate) use unread::UnreadBody;
pub(crate) use watchdog_clock::StreamClock;
