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
    shared_log::{Channel, Got},
};
use crate::{
    codec::Raw,
    downstream::{
        frame_buffer::Frames,
        source::{Source, Step},
    },
    error::ErrorKind,
    observe::report::{Outcome, StreamReport},
};

/// What is read in one go.
const BYTES_A_READ: usize = 256 << 10;

/// A seat at a log, given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    channel: Arc<Channel>,
    seat: usize,
    /// What this reader alone is told, before anything else.
    first: Option<Bytes>,
    blocks: Vec<Raw>,
    route: Option<Arc<str>>,
}

impl Reader {
    pub(crate) fn new(channel: Arc<Channel>, from: Cursor) -> Self {
        let seat = channel.join(from);
        Self::seated(channel, seat)
    }

    /// On a seat that was taken.
    pub(crate) fn seated(channel: Arc<Channel>, seat: usize) -> Self {
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
    const PATIENCE: u8 = 0;

    fn poll_frames(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        frames: &mut Frames,
    ) -> Poll<Step> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            frames.run(first.into());
            return Poll::Ready(Step::Full);
        }
        let got = this
            .channel
            .poll_read(this.seat, cx, BYTES_A_READ, &mut this.blocks);
        Poll::Ready(match ready!(got) {
            Got::Blocks => {
                this.blocks.drain(..).for_each(|blocks| frames.run(blocks));
                Step::Full
            }
            Got::End(trailers) => Step::End(trailers),
            Got::Failed(error) => {
                // Other failures are those of the stream, which its writer reports once for all readers.
                if error.kind() == ErrorKind::Lagged {
                    let outcome = Outcome::Failed(ErrorKind::Lagged);
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
