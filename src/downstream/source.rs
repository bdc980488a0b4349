//! The source of the frames of one client: an upstream, or the log of a recorded stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    downstream::frame_buffer::FrameBuffer,
    observe::report::StreamReport,
    upstream::{Pull, Step},
};

/// The source of the frames of one client.
pub(crate) trait Source {
    /// The number of polls without a new block after which the blocks that are ready leave; see
    /// [`FlushPolicy`](crate::downstream::flush_policy::FlushPolicy).
    const PATIENCE: u8;

    /// Moves blocks to the frames until the frames are full, no block is ready, or the stream is over. Must not be polled after
    /// that.
    fn poll_frames(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step>;

    /// Takes the report of a stream that has ended cleanly, and whose end is still to be sent.
    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport>;
}

impl<B> Source for Pull<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// A server polls a pending body a second time before it waits, so that one poll is not enough to let the upstream's side run.
    const PATIENCE: u8 = 2;

    fn poll_frames(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step> {
        self.poll(cx, frames)
    }

    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        self.take_report()
    }
}
