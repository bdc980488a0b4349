//! The one lock of this room, so that a model checker can put its own in its place.

pub(super) use std::sync::{Mutex, MutexGuard};
