//! The body of an observed stream that the layer passes on untouched, in a slot that others can empty.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tower::BoxError;

use super::slot::{Endable, Slot};
use crate::observe::{LiveStream, StreamEnded, StreamReport};

/// The body of an observed stream that the layer passes on untouched. Dropping it cancels the upstream.
pub(crate) struct UntouchedBody<B> {
    slot: Arc<Slot<Upstream<B>>>,
}

struct Upstream<B> {
    /// `None` once the stream has ended.
    body: Option<Pin<Box<B>>>,
    report: Option<StreamReport>,
    waker: Option<Waker>,
}

/// The next frame, or `None` at the end.
type NextFrame<E> = Option<Result<Frame<Bytes>, E>>;

/// The stream was ended from outside.
#[derive(Debug)]
pub(crate) struct Closed;

impl<B: Send + 'static> UntouchedBody<B> {
    pub(crate) fn new(body: B, report: StreamReport, live: Arc<LiveStream>) -> Self {
        let upstream = Upstream {
            body: Some(Box::pin(body)),
            report: Some(report),
            waker: None,
        };
        let slot = Slot::new(live, upstream);
        let control: Weak<Slot<Upstream<B>>> = Arc::downgrade(&slot);
        slot.live().set_control(control);
        Self { slot }
    }

    /// Reports the end of the stream, unless it is reported.
    pub(crate) fn close(&self, end: StreamEnded) {
        let report = self.slot.with(|upstream| upstream.report.take());
        if let Some(report) = report {
            report.close(end);
        }
    }
}

impl<B> UntouchedBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Polls the next frame of the upstream. Fails with [`Closed`] if the stream was ended from outside.
    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<NextFrame<B::Error>, Closed>> {
        let live = self.slot.live();
        let frame = self.slot.with(|upstream| {
            let body = upstream.body.as_mut().ok_or(Closed)?;
            match &mut upstream.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                waker => *waker = Some(cx.waker().clone()),
            }
            Ok(body.as_mut().poll_frame(cx))
        });
        let frame = ready!(frame?);
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            let mut progress = live.progress();
            progress.bytes_in += bytes;
            progress.bytes_out += bytes;
            live.update(progress, false, Instant::now());
        }
        Poll::Ready(Ok(frame))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.slot.with(|upstream| {
            let body = upstream.body.as_ref();
            body.is_some_and(|body| body.is_end_stream())
        })
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.slot.with(|upstream| {
            let body = upstream.body.as_ref();
            body.map_or_else(SizeHint::default, |body| body.size_hint())
        })
    }
}

impl<B: Send + 'static> Endable for Upstream<B> {
    fn end(&mut self) -> (Option<StreamReport>, Option<Waker>) {
        if self.report.is_some() {
            self.body = None;
        }
        (self.report.take(), self.waker.take())
    }
}

/// The client has disconnected, or the stream is over.
impl<B> Drop for UntouchedBody<B> {
    fn drop(&mut self) {
        let mut upstream = self.slot.lock();
        let rest = (upstream.report.take(), upstream.body.take());
        drop(upstream);
        // Outside of the lock: observers are user code. The report comes first.
        drop(rest);
    }
}
