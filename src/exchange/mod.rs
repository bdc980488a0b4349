//! One request and its response.

mod authorize;
pub(crate) mod handle;
pub(crate) mod record;
pub(crate) mod respond;
pub(crate) mod resume;
mod session;
