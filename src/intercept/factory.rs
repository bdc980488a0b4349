//! What is installed in a layer, and opens an interceptor for each stream.

use std::{sync::Arc, time::Duration};

use super::{Interceptor, StreamHead, Verdict};
use crate::codec::Event;

/// Opens an [`Interceptor`] for each stream. One is shared by all streams of a layer.
///
/// A function `Fn(&StreamHead) -> Option<impl Interceptor>` is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Intercept`",
    label = "not an `Intercept`",
    note = "for a function of an event: `EachEvent::new(function)` is one",
    note = "for an `Interceptor`: `|_: &Head<'_>| Some(MyInterceptor::new())` is one"
)]
pub trait MakeInterceptor: Send + Sync + 'static {
    /// An interceptor for the stream with this head, or `None` if it is none of its business.
    ///
    /// A panic here is answered with 502, since without the interceptor the stream must not flow.
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>>;

    /// Whether a block goes on unchanged when the interceptor fails to judge it. By default it does not: the
    /// stream is cut. Set it with [`fail_open`](MakeInterceptorExt::fail_open).
    fn fails_open(&self) -> bool {
        false
    }

    /// How long a [deferred](Verdict::Defer) verdict may take. By default as long as it likes. Set it with
    /// [`time_limit`](MakeInterceptorExt::time_limit).
    fn deferral_limit(&self) -> Option<Duration> {
        None
    }
}

impl<F, I> MakeInterceptor for F
where
    F: Fn(&StreamHead<'_>) -> Option<I> + Send + Sync + 'static,
    I: Interceptor,
{
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(self(head)?))
    }
}

macro_rules! pointer {
    ($($pointer:ident),*) => {$(
        impl MakeInterceptor for $pointer<dyn MakeInterceptor> {
            fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
                (**self).open(head)
            }

            fn fails_open(&self) -> bool {
                (**self).fails_open()
            }

            fn deferral_limit(&self) -> Option<Duration> {
                (**self).deferral_limit()
            }
        }
    )*};
}

// The one to choose at run time, the other to share between two policies.
pointer!(Box, Arc);

/// Adapters for every [`MakeInterceptor`]. (For a function of an event, wrap it first: [`event_fn`].)
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{MakeInterceptorExt, ServiceInterceptor}};
///
/// // A classifier that is nice to have: if it is slow or down, events go on without it.
/// let classify = ServiceInterceptor::new(tower::service_fn(|event: Event| async move {
///     Ok::<_, std::io::Error>(event)
/// }));
/// let layer = SseProxyLayer::default()
///     .intercept(classify.time_limit(Duration::from_millis(200)).fail_open());
/// ```
pub trait MakeInterceptorExt: MakeInterceptor + Sized {
    /// Lets a block go on unchanged when the interceptor fails to judge it: a deferred verdict that is an
    /// error, or that takes too long. It goes on at once, before what the interceptor holds. A panic fails
    /// closed all the same: nobody knows what state it left.
    fn fail_open(self) -> FailOpen<Self> {
        FailOpen(self)
    }

    /// Bounds the time a deferred verdict may take; longer is a failure. Of several bounds the shortest holds.
    /// Verdicts that are not deferred block the stream's task and cannot be timed out.
    fn time_limit(self, limit: Duration) -> TimeLimit<Self> {
        TimeLimit {
            intercept: self,
            limit,
        }
    }
}

impl<T: MakeInterceptor> MakeInterceptorExt for T {}

/// See [`MakeInterceptorExt::fail_open`].
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

/// See [`MakeInterceptorExt::time_limit`].
#[derive(Clone, Debug)]
pub struct TimeLimit<I> {
    intercept: I,
    limit: Duration,
}

impl<I: MakeInterceptor> MakeInterceptor for TimeLimit<I> {
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        self.intercept.open(head)
    }

    fn fails_open(&self) -> bool {
        self.intercept.fails_open()
    }

    fn deferral_limit(&self) -> Option<Duration> {
        let inner = self.intercept.deferral_limit();
        Some(inner.map_or(self.limit, |inner| inner.min(self.limit)))
    }
}

/// What [`SseProxyLayer::intercept`](crate::SseProxyLayer::intercept) takes: an [`MakeInterceptor`], or a function
/// of an event, `Fn(Event) -> impl Into<Verdict>`.
///
/// `M` only tells the two apart and is always inferred. For a function of an event that needs the
/// [adapters](MakeInterceptorExt), say [`event_fn`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be installed as an interceptor",
    label = "neither an `Intercept` nor a function of an event",
    note = "a function of an event: `|event: Event| ..`, which gives a `Verdict`, `Event`, `Option<Event>` or `Vec<Event>`",
    note = "an `Interceptor` belongs to one stream: `|_: &Head<'_>| Some(MyInterceptor::new())` opens one for each",
    note = "the argument of a closure has to be annotated, as above",
    note = "for async code: `Verdict::defer`, or `ServiceInterceptor` around a service that is `Clone + Send + Sync`"
)]
pub trait IntoMakeInterceptor<M> {
    /// What it becomes.
    type Intercept: MakeInterceptor;

    /// Makes it one.
    fn into_intercept(self) -> Self::Intercept;
}

/// Tell the forms of [`IntoMakeInterceptor`] apart.
#[doc(hidden)]
pub mod marker {
    /// An [`MakeInterceptor`](super::MakeInterceptor) already.
    #[derive(Debug)]
    pub enum Factory {}
    /// A function of an event.
    #[derive(Debug)]
    pub enum Function {}
}

impl<I: MakeInterceptor> IntoMakeInterceptor<marker::Factory> for I {
    type Intercept = I;

    fn into_intercept(self) -> I {
        self
    }
}

impl<F, V> IntoMakeInterceptor<(marker::Function, V)> for F
where
    F: Fn(Event) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    type Intercept = EventFn<F>;

    fn into_intercept(self) -> EventFn<F> {
        event_fn(self)
    }
}

/// Makes a [`MakeInterceptor`] from a function of an event, for use with [adapters](MakeInterceptorExt).
///
/// The function takes `&self`, so it has no state for one stream. It sees events only; comments, blocks without data and unknown
/// fields pass. An interceptor that has to see every byte implements [`Interceptor::block`].
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{Event, intercept::{MakeInterceptorExt, Verdict, event_fn}};
///
/// let ask = event_fn(|event: Event| Verdict::defer(async { Ok(event) }))
///     .time_limit(Duration::from_secs(1));
/// ```
pub fn event_fn<F, V>(function: F) -> EventFn<F>
where
    F: Fn(Event) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    EventFn(Arc::new(function))
}

/// The [`MakeInterceptor`] that [`event_fn`] returns.
#[derive(Clone, Debug)]
pub struct EventFn<F>(Arc<F>);

impl<F, V> MakeInterceptor for EventFn<F>
where
    F: Fn(Event) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    fn open(&self, _head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        let function = Arc::clone(&self.0);
        Some(Box::new(move |event: Event| function(event)))
    }
}
