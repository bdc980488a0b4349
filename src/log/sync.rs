//! The lock of a recorded stream: the standard library's, or loom's where a model checker runs the code (`--cfg loom`).

#[cfg(loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(super) use std::sync::{Mutex, MutexGuard};
