//! A body that the layer has read as a whole before it sends it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The bytes of a body in one frame, and its trailers.
pub(crate) struct Whole {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
    /// The size that a reader may know before the first frame.
    size_hint: SizeHint,
}

impl Whole {
    pub(crate) fn new(bytes: Bytes, trailers: Option<HeaderMap>, size_hint: SizeHint) -> Self {
        Self {
            bytes,
            trailers,
            size_hint,
        }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.bytes.is_empty() {
            self.size_hint = SizeHint::with_exact(0);
            let bytes = std::mem::take(&mut self.bytes);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        // A server would send an empty body of unknown size with a length of 0.
        self.bytes.is_empty() && self.trailers.is_none() && self.size_hint.exact().is_some()
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}
