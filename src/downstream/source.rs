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
    error::Error,
    live::Attached,
    observe::StreamReport,
    upstream::{Pull, Step},
};

/// The source of the frames of one client.
pub(crate) trait Source {
    /// The number of polls in a row without a new block after which the blocks that are ready leave; see
    /// [`FlushPolicy`](crate::downstream::flush_policy::FlushPolicy).
    const MAX_EMPTY_POLLS: u8;

    /// Whether the source stays until the client has received a clean end, because others can end the stream until then. If so,
    /// [`close`](Self::close) closes its report.
    const OUTLASTS_END: bool = false;

    /// Moves blocks to the frames until the frames are full, no block is ready, or the stream is over. Must not be polled after
    /// that.
    fn poll_frames(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step>;

    /// Takes the report of a stream that has ended. The caller closes it: after a clean end when the client has received the end.
    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport>;

    /// Handles a clean end that the client has yet to receive. For a source that [outlasts](Self::OUTLASTS_END) it.
    fn handle_end(&self) {}

    /// Handles that the client receives a clean end. Fails if another end of the stream was decided before.
    fn close(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Counts bytes that are sent to the client and did not come from the source.
    fn count_added(&self, bytes: usize) {
        let _ = bytes;
    }
}

impl<B> Source for Pull<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Two, because a server polls a pending body a second time before it yields. The task that reads the upstream's connection
    /// runs only after that.
    const MAX_EMPTY_POLLS: u8 = 2;

    // With the default release settings, the functions that a poll calls once are not inlined into each other unless they are
    // marked. The marks save 5 % of the instructions of an event that comes alone: the paced streams of the bench `proxy`.
    #[inline]
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

impl<B> Source for Attached<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    const MAX_EMPTY_POLLS: u8 = <Pull<B> as Source>::MAX_EMPTY_POLLS;
    const OUTLASTS_END: bool = true;

    fn poll_frames(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step> {
        self.poll(cx, frames)
    }

    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        Attached::take_report(&self)
    }

    fn handle_end(&self) {
        Attached::handle_end(self);
    }

    fn close(&self) -> Result<(), Error> {
        Attached::close(self)
    }

    fn count_added(&self, bytes: usize) {
        Attached::count_added(self, bytes);
    }
}
