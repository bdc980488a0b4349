//! Catches panics of user code, so that a panic ends one stream only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind};

/// Runs `f` and converts a panic to an error. After a panic, the caller may only end and drop the value that panicked.
#[inline]
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| Error::new(ErrorKind::InterceptorPanicked))
}

/// Drops a value of user code and catches a panic in it, because the connection may serve other streams.
pub(crate) fn drop_caught<T>(value: T) {
    let _ = catch(|| drop(value));
}
