//! A tower service as an interceptor.

use tower::{BoxError, Service, util::Oneshot};

use super::{Interceptor, MakeInterceptor, StreamHead, Verdict};
use crate::codec::Event;

/// Calls a tower service for each event: a `Service<Event>` with a response that converts into a [`Verdict`].
///
/// Tower's middleware applies: `Timeout`, `ConcurrencyLimit`, `LoadShed`, `Buffer`, `Retry`. Each event is one call of a clone
/// of the service. The stream waits for the response; other streams do not. The call is dropped when the stream ends.
///
/// The service sees events only. Comments, blocks without data and unknown fields pass unseen. To use the request in the
/// decision, write an [`Interceptor`] that reads the [`StreamHead`] and returns [`Verdict::defer`].
///
/// The service must be `Sync`. Of tower's boxed services, only `BoxCloneSyncService` is.
///
/// # Errors
/// An error of the service is a failure of the interceptor: the stream is cut, or with
/// [`fail_open`](super::MakeInterceptorExt::fail_open) the event passes unchanged.
///
/// Tower's `Timeout` starts with the call, after the wait for a permit or for a place in a queue.
/// [`time_limit`](super::MakeInterceptorExt::time_limit) includes that wait.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceBuilder, service_fn};
/// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{MakeInterceptorExt, ServiceInterceptor}};
///
/// let judge = service_fn(|event: Event| async move {
///     let pass = !event.data().contains("bad");
///     Ok::<_, Infallible>(pass.then_some(event)) // `None` drops the event
/// });
/// let judge = ServiceBuilder::new().concurrency_limit(64).service(judge);
/// let judge = ServiceInterceptor::new(judge).time_limit(Duration::from_secs(2));
/// let layer = SseProxyLayer::default().intercept(judge);
/// ```
#[derive(Clone, Debug)]
pub struct ServiceInterceptor<S> {
    service: S,
}

impl<S> ServiceInterceptor<S> {
    /// Wraps a service.
    pub fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S> MakeInterceptor for ServiceInterceptor<S>
where
    S: Service<Event> + Clone + Send + Sync + 'static,
    S::Response: Into<Verdict>,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn open(&self, _head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        let service = self.service.clone();
        Some(Box::new(move |event: Event| {
            let response = Oneshot::new(service.clone(), event);
            Verdict::defer(async move { response.await.map_err(Into::into) })
        }))
    }
}
