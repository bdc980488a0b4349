//! How a request is sent again.

use futures_util::TryFutureExt;
use http::{Request, request};
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::reconnect::{
    Reconnect,
    config::{AttemptFuture, RetryParts},
    policy::{ReconnectPolicy, sealed},
};

impl sealed::Sealed for Reconnect {}

// Without this the compiler reports only that the body is not `Default`, instead of the message of `ReconnectPolicy`.
#[diagnostic::do_not_recommend]
impl<S, ReqB> ReconnectPolicy<S, ReqB> for Reconnect
where
    S: Service<Request<ReqB>>,
    S::Error: Into<BoxError>,
    ReqB: Default + Send + 'static,
{
    fn retry_request<R>(&self, service: &S, request: &request::Parts) -> Option<RetryParts<R>>
    where
        S: Service<Request<ReqB>, Response = R> + Clone + Send + 'static,
        S::Future: Send,
        R: 'static,
    {
        let head = self.retry_head(request)?;
        // The clone of a ready service is not ready, so each attempt waits for its own clone.
        let service = service.clone();
        let resend = move |head| -> AttemptFuture<R> {
            let request = Request::from_parts(head, ReqB::default());
            Box::pin(service.clone().oneshot(request).map_err(Into::into))
        };
        Some((head, self.clone(), Box::new(resend)))
    }
}
