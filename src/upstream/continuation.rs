//! The interface by which a stream continues with another response of its upstream.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use http::{HeaderMap, response};

use crate::{error::Error, headers::content_encoding::ContentCoding, upstream::body::DecodedBody};

/// The end of one upstream response.
#[derive(Debug)]
pub(crate) enum UpstreamEnd {
    /// The body ended, with these trailers.
    Clean(Option<Box<HeaderMap>>),
    /// The body failed.
    Broken(Error),
}

/// A source of further responses that continue a stream. The interceptors do not see the seam between two responses.
pub(crate) trait Continuation<B>: Send {
    /// Handles the end of a response. Returns the end if no other response can follow.
    ///
    /// The driver may not have handled all blocks of the response when this is called. It has handled them at the first call of
    /// [`poll_next`](Self::poll_next).
    fn handle_end(&mut self, end: UpstreamEnd) -> Result<(), UpstreamEnd>;

    /// Waits for the next response. Returns the end of the last one if no other response follows.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>>;

    /// Whether a request to the upstream is not answered yet. False during the delay before it.
    fn awaits_answer(&self) -> bool;

    /// Stops the wait for a response. Returns the end of the last response, or `None` if the next one has already begun.
    fn stop_waiting(&mut self) -> Option<UpstreamEnd>;
}

/// Returns how the body of a response is read if its event stream can continue the broken one, and `None` otherwise.
pub(crate) type ContentCheck = Box<dyn Fn(&response::Parts) -> Option<BodyRules> + Send>;

/// How the body of a response is read.
pub(crate) struct BodyRules {
    pub(crate) coding: ContentCoding,
    /// See [`RawBody::new`](crate::upstream::body::RawBody::new).
    pub(crate) read_ahead: Option<usize>,
}

/// No continuation, for a stream that ends with its response.
impl<B> Continuation<B> for Infallible {
    fn handle_end(&mut self, _: UpstreamEnd) -> Result<(), UpstreamEnd> {
        match *self {}
    }

    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>> {
        match *self {}
    }

    fn awaits_answer(&self) -> bool {
        match *self {}
    }

    fn stop_waiting(&mut self) -> Option<UpstreamEnd> {
        match *self {}
    }
}
