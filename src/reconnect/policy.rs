//! Whether a layer reconnects.

use http::{Request, request};
use tower_service::Service;

use crate::reconnect::RetryParts;

/// Never reconnects: a stream whose upstream connection breaks ends with an error. The default of a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReconnect;

/// Whether a layer [reconnects](crate::reconnect::Reconnect) or [not](NoReconnect). Sealed.
///
/// A type parameter of the layer, because only a layer that reconnects requires `Default` of request bodies.
#[diagnostic::on_unimplemented(
    message = "reconnecting requires a request body `{ReqB}` that implements `Default`, and a service error that implements \
               `Into<BoxError>`",
    label = "requests with this body cannot be sent again, or the service's errors cannot be logged",
    note = "box the bodies before the layer: `request.map(http_body_util::BodyExt::boxed)`, or `request.map(axum::body::Body::new)`; \
            see the documentation of `Reconnect`"
)]
pub trait ReconnectPolicy<S, ReqB>: sealed::Sealed {
    /// The request that resumes the stream of `request`, and a function that sends it. `None` if the request may not be repeated.
    #[doc(hidden)]
    fn retry_request<R>(&self, service: &S, request: &request::Parts) -> Option<RetryParts<R>>
    where
        S: Service<Request<ReqB>, Response = R> + Clone + Send + 'static,
        S::Future: Send,
        R: 'static;
}

impl<S, ReqB> ReconnectPolicy<S, ReqB> for NoReconnect {
    fn retry_request<R>(&self, _: &S, _: &request::Parts) -> Option<RetryParts<R>> {
        None
    }
}

pub(super) mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NoReconnect {}
}
