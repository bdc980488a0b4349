//! The stages of one request; `handle` has their order.

mod authorize;
pub(crate) mod context;
mod early;
pub(crate) mod handle;
mod inspectable;
mod open;
pub(crate) mod outcome;
pub(crate) mod record;
pub(crate) mod respond;
pub(crate) mod resume;
mod session;
