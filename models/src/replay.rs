//! The crate's module of this name, as far as it is needed.

#[path = "../../src/replay/channel.rs"]
mod channel;
#[path = "../../src/replay/id.rs"]
mod id;
#[path = "../../src/replay/log.rs"]
mod log;

mod sync {
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

pub(crate) use channel::{Channel, Demand, Ending, Got, Join, Place};
pub(crate) use id::Position;
pub(crate) use log::{Bounds, Cursor, State};
