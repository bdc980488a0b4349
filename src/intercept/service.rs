//! A tower service as an interceptor.

use tower::{BoxError, Service, util::Oneshot};

use super::{Interceptor, MakeInterceptor, StreamHead, Verdict};
use crate::codec::Event;

/// Asks a tower service about every event: `Service<Event>` whose response converts into a [`Verdict`].
///
/// The service can wear whatever tower offers: `Timeout`, `ConcurrencyLimit`, `LoadShed`, `Buffer`, `Retry`.
/// Each event is one call of a clone, and the stream waits for its answer; other streams do not. An error is
/// a failure of the interceptor: the stream is cut, or the event goes on unchanged under
/// [`fail_open`](super::MakeInterceptorExt::fail_open). A call is dropped when the stream ends.
///
/// Tower's `Timeout` counts from the call: the wait for a permit or for a place in a queue comes before it and has no
/// bound. [`time_limit`](super::MakeInterceptorExt::time_limit) bounds both.
///
/// The service sees events only: comments, bare ids and unknown fields pass it by. A judge that needs to know who asked
/// is an [`Interceptor`] that takes it from the [`StreamHead`] and answers with [`Verdict::defer`]. The service is `Sync`:
/// of tower's boxes, `BoxCloneSyncService` is.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceBuilder, service_fn};
/// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{MakeInterceptorExt, ServiceInterceptor}};
///
/// let judge = service_fn(|event: Event| async move {
///     let fine = !event.data().contains("bad");
///     Ok::<_, Infallible>(fine.then_some(event)) // `None` drops it
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
            let answer = Oneshot::new(service.clone(), event);
            Verdict::defer(async move { answer.await.map_err(Into::into) })
        }))
    }
}
