//! The replacement of `recorded` in builds without the feature `replay`: no stream is kept after its end.

use crate::streams::{Select, Streams};

impl Streams {
    pub(super) fn close_ended(&self, _: &Select) -> usize {
        0
    }
}
