//! The reader of a recorded stream: the source of one client's response body.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    codec::ChunkSlice,
    downstream::{frame_buffer::FrameBuffer, source::Source},
    error::ErrorKind,
    log::{
        Cursor,
        shared_log::{ReadOutcome, SharedLog},
    },
    observe::{LiveStream, StreamReport, log_lagged},
    upstream::Step,
};

/// The maximum number of bytes that one poll reads.
const BYTES_PER_READ: usize = 256 << 10;

/// A subscriber of a log. Dropping it unsubscribes.
pub(crate) struct Reader {
    log: Arc<SharedLog>,
    subscriber: usize,
    /// A block that this reader gets before all others.
    first: Option<Bytes>,
    blocks: Vec<ChunkSlice>,
    route: Option<Arc<str>>,
    live: Option<Arc<LiveStream>>,
}

impl Reader {
    /// Subscribes at a cursor.
    pub(crate) fn new(log: Arc<SharedLog>, from: Cursor) -> Self {
        let subscriber = log.subscribe(from);
        Self::from_subscriber(log, subscriber)
    }

    /// Reads as this subscriber.
    pub(crate) fn from_subscriber(log: Arc<SharedLog>, subscriber: usize) -> Self {
        Self {
            log,
            subscriber,
            first: None,
            blocks: Vec::new(),
            route: None,
            live: None,
        }
    }

    /// Whether there are events to read.
    pub(crate) fn has_events(&self) -> bool {
        self.log.has_events(self.subscriber)
    }

    /// Sets the route label of the report that a reader makes if it cannot keep up.
    pub(crate) fn route(mut self, route: Option<Arc<str>>) -> Self {
        self.route = route;
        self
    }

    /// Sets the observed stream that is read.
    pub(crate) fn live(mut self, live: Option<Arc<LiveStream>>) -> Self {
        self.live = live;
        self
    }

    /// The observed stream that is read, if it is open.
    pub(crate) fn open_stream(&self) -> Option<&Arc<LiveStream>> {
        self.live.as_ref().filter(|live| !live.is_closed())
    }

    /// Sets a block that this reader gets before all others.
    pub(crate) fn first(mut self, block: Option<Bytes>) -> Self {
        self.first = block;
        self
    }
}

impl Source for Reader {
    /// The writer has merged the blocks that were ready together.
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
        let read = this
            .log
            .poll_read(this.subscriber, cx, BYTES_PER_READ, &mut this.blocks);
        Poll::Ready(match ready!(read) {
            ReadOutcome::Blocks => {
                this.blocks
                    .drain(..)
                    .for_each(|blocks| frames.push_span(blocks));
                Step::Full
            }
            ReadOutcome::End(trailers) => Step::End(trailers),
            ReadOutcome::Failed(error) => {
                // The writer reports the other failures, once for all readers.
                if error.kind() == ErrorKind::Lagged {
                    log_lagged(this.route.take());
                    if let Some(live) = &this.live {
                        live.count_lagged_reader();
                    }
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
        self.log.unsubscribe(self.subscriber, Instant::now());
        if let Some(live) = &self.live {
            live.notify_client_left();
        }
    }
}
