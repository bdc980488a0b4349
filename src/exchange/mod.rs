//! One request and its response, in the order in which they are handled.

mod authorize;
pub(crate) mod context;
pub(crate) mod handle;
mod inspectable;
mod open;
pub(crate) mod outcome;
pub(crate) mod record;
pub(crate) mod respond;
pub(crate) mod resume;
mod session;
