//! The lock of a [`SharedLog`](super::SharedLog): the lock of the standard library, or of loom in models (`--cfg loom`).

#[cfg(loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(super) use std::sync::{Mutex, MutexGuard};
