//! The task of a recorded stream: runs its `Writer`, then expires its events.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    live::StreamWatchdog,
    replay::{
        RecordedStreams, lifetime::Limits, recorded_stream::RecordedStream, streams::Registration,
        writer::Writer,
    },
    session::SessionLease,
    timer::Timer,
    upstream::Pull,
};

/// The task of a recorded stream, to be spawned. It ends when the log keeps no event and the stream has ended.
#[must_use = "the stream is written while this is polled"]
pub(crate) struct RecordDriver<B> {
    phase: Phase<B>,
    registration: Arc<Registration>,
    timer: Timer,
}

/// The phases of the task.
enum Phase<B> {
    /// The stream is written.
    Recording(Pin<Box<Writer<B>>>),
    /// The stream has ended, and its events wait for their expiry. The memory of the writer is free.
    Retained,
}

impl<B> RecordDriver<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// `read_buffer` is the upper bound, in bytes, of the read buffer of a connection to the upstream.
    pub(crate) fn new(
        pull: Pull<B>,
        stream: Arc<RecordedStream>,
        streams: Arc<RecordedStreams>,
        read_buffer: usize,
        limits: Limits,
        watchdog: Option<StreamWatchdog>,
        lease: Option<SessionLease>,
    ) -> Self {
        let registration = Arc::new(Registration { stream, streams });
        if let Some(live) = &registration.stream.live {
            let control: Weak<Registration> = Arc::downgrade(&registration);
            live.set_control(control);
        }
        let writer = Writer::new(
            pull,
            Arc::clone(&registration),
            read_buffer,
            limits,
            watchdog,
            lease,
        );
        Self {
            phase: Phase::Recording(Box::pin(writer)),
            registration,
            timer: Timer::default(),
        }
    }
}

impl<B> Future for RecordDriver<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Phase::Recording(writer) = &mut this.phase {
            ready!(writer.as_mut().poll(cx));
            this.phase = Phase::Retained;
        }
        let log = &this.registration.stream.log;
        loop {
            let (expires, change) = log.expire(Instant::now());
            this.registration.account(change);
            if !log.poll_retained(cx) {
                return Poll::Ready(());
            }
            // Without an expiry, the events stay until they are evicted for other streams.
            let Some(at) = expires else {
                return Poll::Pending;
            };
            ready!(this.timer.poll(cx, at));
        }
    }
}
