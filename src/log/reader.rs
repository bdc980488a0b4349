//! One reader of a log: the source of what one client gets.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::log::{
    event_log::Cursor,
    shared_log::{ReadOutcome, SharedLog},
};
use crate::{
    codec::ChunkSlice,
    downstream::{frame_buffer::FrameBuffer, source::Source},
    error::ErrorKind,
    observe::report::{StreamOutcome, StreamReport},
    upstream::Step,
};

/// What is read in one go.
const BYTES_A_READ: usize = 256 << 10;

/// A seat at a log, given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    channel: Arc<SharedLog>,
    seat: usize,
    /// What this reader alone is told, before anything else.
    first: Option<Bytes>,
    blocks: Vec<ChunkSlice>,
    route: Option<Arc<str>>,
}

impl Reader {
    pub(crate) fn new(channel: Arc<SharedLog>, from: Cursor) -> Self {
        let seat = channel.join(from);
        Self::seated(channel, seat)
    }

    /// On a seat that was taken.
    pub(crate) fn seated(channel: Arc<SharedLog>, seat: usize) -> Self {
        Self {
            channel,
            seat,
            first: None,
            blocks: Vec::new(),
            route: None,
        }
    }

    /// Whether there are events to read.
    pub(crate) fn has_events(&self) -> bool {
        self.channel.has_events(self.seat)
    }

    /// Sets the route that is named when this reader cannot keep up.
    pub(crate) fn route(mut self, route: Option<Arc<str>>) -> Self {
        self.route = route;
        self
    }

    /// Is told this before anything else.
    pub(crate) fn first(mut self, block: Option<Bytes>) -> Self {
        self.first = block;
        self
    }
}

impl Source for Reader {
    /// What was written together is read together.
    const MAX_EMPTY_POLLS: u8 = 0;

    fn poll_frames(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Step> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            frames.push_span(first.into());
            return Poll::Ready(Step::Full);
        }
        let got = this
            .channel
            .poll_read(this.seat, cx, BYTES_A_READ, &mut this.blocks);
        Poll::Ready(match ready!(got) {
            ReadOutcome::Blocks => {
                this.blocks
                    .drain(..)
                    .for_each(|blocks| frames.push_span(blocks));
                Step::Full
            }
            ReadOutcome::End(trailers) => Step::End(trailers),
            ReadOutcome::Failed(error) => {
                // Other failures are those of the stream, which its writer reports once for all readers.
                if error.kind() == ErrorKind::Lagged {
                    let outcome = StreamOutcome::Failed(ErrorKind::Lagged);
                    StreamReport::unread(this.route.take()).close(outcome);
                }
                Step::Failed(error)
            }
        })
    }

    fn take_report(self: Pin<&mut Self>) -> Option<StreamReport> {
        None
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.channel.leave(self.seat, Instant::now());
    }
}
