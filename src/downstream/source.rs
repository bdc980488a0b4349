//! What a stream is read from, its upstream or what is kept of it, and where its blocks go.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;

use crate::{downstream::frame_buffer::FrameBuffer, error::Error, observe::report::StreamReport};

/// Where the frames of one client come from.
pub(crate) trait Source {
    /// Polls without anything new after which what is ready leaves at the latest; see `FlushPolicy`.
    const PATIENCE: u8;

    /// Moves blocks to the frames until they are full, there are no more for now, or the stream is over. Not to be polled after
    /// that.
    fn poll_frames(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step>;

    /// Takes the report of a stream that has ended cleanly, and whose end is still to be sent.
    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport>;
}

/// What a poll came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There is enough for now, or what there is should not wait for what there is still to do.
    Full,
    /// The stream ended, with these trailers.
    End(Option<Box<HeaderMap>>),
    /// The stream broke. What was sent before is all there is.
    Failed(Error),
}
