//! The stages of one request; `handle` has their order.

#[cfg(feature = "replay")]
mod authorize;
mod call;
pub(crate) mod context;
mod early;
#[cfg(feature = "replay")]
mod find;
#[cfg(feature = "replay")]
mod gap;
pub(crate) mod handle;
mod inspectable;
mod json_body;
#[cfg(not(feature = "replay"))]
mod no_replay;
mod open;
pub(crate) mod outcome;
#[cfg(feature = "replay")]
mod record;
pub(crate) mod respond;
#[cfg(feature = "replay")]
mod resume;
#[cfg_attr(not(feature = "sessions"), path = "no_sessions.rs")]
mod session;
#[cfg(feature = "replay")]
mod shared_call;
#[cfg(feature = "replay")]
mod subscribe;

#[cfg(not(feature = "replay"))]
pub(crate) use no_replay::{RecordingContext, find_recorded, needs_handling, record, subscribe};
#[cfg(feature = "replay")]
pub(crate) use {
    find::find_recorded,
    record::{RecordingContext, record},
    resume::needs_handling,
    subscribe::subscribe,
};
