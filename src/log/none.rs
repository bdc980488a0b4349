//! The replacement of the folder in builds without the feature `replay`: no stream has a log.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    downstream::{frame_buffer::FrameBuffer, source::Source},
    observe::StreamReport,
    upstream::Step,
};

/// Never made.
pub(crate) enum Reader {}

impl Source for Reader {
    const MAX_EMPTY_POLLS: u8 = 0;

    fn poll_frames(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut FrameBuffer) -> Poll<Step> {
        match *self {}
    }

    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        match *self {}
    }
}
