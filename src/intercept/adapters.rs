//! Adapters of interceptor factories: the failure mode and the time limit.

use std::time::Duration;

use super::{Interceptor, IntoMakeInterceptor, MakeInterceptor, StreamHead};

/// Adapters for everything that [`SseProxyLayer::intercept`](crate::SseProxyLayer::intercept) takes: a [`MakeInterceptor`],
/// or a function of an event.
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{MakeInterceptorExt, Verdict}};
/// # async fn classify(event: Event) -> Result<Event, std::io::Error> { Ok(event) }
///
/// // If the classifier is slow or fails, events pass unchanged.
/// let classify = |event: Event| Verdict::defer(async { Ok(classify(event).await?) });
/// let layer = SseProxyLayer::default()
///     .intercept(classify.time_limit(Duration::from_millis(200)).fail_open());
/// ```
///
/// The compiler infers `M`, as for [`IntoMakeInterceptor`].
pub trait MakeInterceptorExt<M>: IntoMakeInterceptor<M> + Sized {
    /// Lets a block pass unchanged when the interceptor fails on it. Default: the stream is cut.
    ///
    /// A failure is a deferred verdict that is an error or exceeds the [time limit](Self::time_limit). The block passes at
    /// once, before the blocks that the interceptor holds.
    ///
    /// # Panics
    /// A panic of the interceptor cuts the stream in this mode too, because the state of the interceptor is unknown after it.
    fn fail_open(self) -> FailOpen<Self::MakeInterceptor> {
        FailOpen(self.into_make_interceptor())
    }

    /// Limits the time that a [deferred](super::Verdict::Defer) verdict may take. Default: no limit.
    ///
    /// A verdict that takes longer is a failure of the interceptor. If this is called twice, the shorter limit applies. It
    /// cannot stop a verdict that is not deferred: the interceptor computes that inside the poll of the stream.
    fn time_limit(self, limit: Duration) -> TimeLimit<Self::MakeInterceptor> {
        TimeLimit {
            inner: self.into_make_interceptor(),
            limit,
        }
    }
}

impl<M, T: IntoMakeInterceptor<M>> MakeInterceptorExt<M> for T {}

/// A factory of interceptors that fail open. See [`MakeInterceptorExt::fail_open`].
#[derive(Clone, Debug)]
pub struct FailOpen<I>(I);

impl<I: MakeInterceptor> MakeInterceptor for FailOpen<I> {
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        self.0.open(head)
    }

    fn fails_open(&self) -> bool {
        true
    }

    fn deferral_limit(&self) -> Option<Duration> {
        self.0.deferral_limit()
    }
}

/// A factory of interceptors with a time limit for deferred verdicts. See [`MakeInterceptorExt::time_limit`].
#[derive(Clone, Debug)]
pub struct TimeLimit<I> {
    inner: I,
    limit: Duration,
}

impl<I: MakeInterceptor> MakeInterceptor for TimeLimit<I> {
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        self.inner.open(head)
    }

    fn fails_open(&self) -> bool {
        self.inner.fails_open()
    }

    fn deferral_limit(&self) -> Option<Duration> {
        let inner = self.inner.deferral_limit();
        Some(inner.map_or(self.limit, |inner| inner.min(self.limit)))
    }
}
