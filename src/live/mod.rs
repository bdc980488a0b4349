//! Streams that are observed while they run: the upstream half of an attached stream, in a slot that others can empty, and the watchdogs.
//!
//! A server does not poll a body while its client takes nothing, so the end of a stream that an operator closes cannot wait for the next
//! poll. Therefore [`Attached`] shares the upstream half. [`Housekeeper`] is the one task of a layer that checks the watchdogs, and
//! reports the progress of streams.

mod attached;
mod housekeeper;
mod jitter;
mod recheck;
mod slot;
mod untouched;
mod watchdog;
mod watchdog_settings;

pub use watchdog_settings::Watchdog;

pub(crate) use attached::Attached;
pub(crate) use housekeeper::{Checked, Housekeeper};
#[cfg(feature = "replay")]
pub(crate) use jitter::drain_retry;
pub(crate) use untouched::UntouchedBody;
pub(crate) use watchdog::StreamWatchdog;
