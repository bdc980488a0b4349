//! What may follow on an answer of the upstream that is over.

use std::task::{Context, Poll};

use http::HeaderMap;

use crate::error::Error;
use crate::upstream::body::DecodedBody;

/// How an answer ended.
#[derive(Debug)]
pub(crate) enum UpstreamEnd {
    Clean(Option<Box<HeaderMap>>),
    Broken(Error),
}

/// Where another answer comes from that goes on with the stream. The interceptors do not learn of the seam.
pub(crate) trait Continuation<B>: Send {
    /// An answer is over. Given back if that is the end. What came of it may still be on its way: that it has arrived is sure with
    /// the first call of [`poll_next`](Self::poll_next).
    fn handle_end(&mut self, over: UpstreamEnd) -> Result<(), UpstreamEnd>;

    /// The next one, or how the last one ended if there is none.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>>;

    /// There will be none. How the last one ended.
    fn stop_waiting(&mut self) -> Option<UpstreamEnd>;
}
