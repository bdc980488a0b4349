//! Keeps a panic in a user's code inside the stream it happened in.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind};

/// Runs `f`; a panic is an error. What panicked is not used again, except to be told of the end.
#[inline]
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| Error::new(ErrorKind::InterceptorPanicked))
}

/// Drops what a user made. A panic in that must not reach the connection, which may serve other streams.
pub(crate) fn drop_caught<T>(what: T) {
    let _ = catch(|| drop(what));
}
