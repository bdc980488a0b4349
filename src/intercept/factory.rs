//! What is installed in a layer, and opens an interceptor for each stream.

use std::{sync::Arc, time::Duration};

use super::{Head, Interceptor, Verdict};
use crate::codec::Event;

/// Opens an [`Interceptor`] for each stream. One is shared by all streams of a layer.
///
/// A function `Fn(&Head) -> Option<impl Interceptor>` is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Intercept`",
    label = "not an `Intercept`",
    note = "for a function of an event: `EachEvent::new(function)` is one",
    note = "for an `Interceptor`: `|_: &Head<'_>| Some(MyInterceptor::new())` is one"
)]
pub trait Intercept: Send + Sync + 'static {
    /// An interceptor for the stream with this head, or `None` if it is none of its business.
    ///
    /// A panic here is answered with 502, since without the interceptor the stream must not flow.
    fn open(&self, head: &Head<'_>) -> Option<Box<dyn Interceptor>>;

    /// Whether a block goes on unchanged when the interceptor fails to judge it. By default it does not: the
    /// stream is cut. Set it with [`fail_open`](InterceptExt::fail_open).
    fn fails_open(&self) -> bool {
        false
    }

    /// How long a [deferred](Verdict::Defer) verdict may take. By default as long as it likes. Set it with
    /// [`time_limit`](InterceptExt::time_limit).
    fn deferral_limit(&self) -> Option<Duration> {
        None
    }
}

impl<F, I> Intercept for F
where
    F: Fn(&Head<'_>) -> Option<I> + Send + Sync + 'static,
    I: Interceptor,
{
    fn open(&self, head: &Head<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(self(head)?))
    }
}

macro_rules! pointer {
    ($($pointer:ident),*) => {$(
        impl Intercept for $pointer<dyn Intercept> {
            fn open(&self, head: &Head<'_>) -> Option<Box<dyn Interceptor>> {
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

/// Adapters for every [`Intercept`]. (For a function of an event, wrap it first: [`EachEvent::new`].)
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{InterceptExt, ServiceInterceptor}};
///
/// // A classifier that is nice to have: if it is slow or down, events go on without it.
/// let classify = ServiceInterceptor::new(tower::service_fn(|event: Event| async move {
///     Ok::<_, std::io::Error>(event)
/// }));
/// let layer = SseProxyLayer::default()
///     .intercept(classify.time_limit(Duration::from_millis(200)).fail_open());
/// ```
pub trait InterceptExt: Intercept + Sized {
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

impl<T: Intercept> InterceptExt for T {}

/// See [`InterceptExt::fail_open`].
#[derive(Clone, Debug)]
pub struct FailOpen<I>(I);

impl<I: Intercept> Intercept for FailOpen<I> {
    fn open(&self, head: &Head<'_>) -> Option<Box<dyn Interceptor>> {
        self.0.open(head)
    }

    fn fails_open(&self) -> bool {
        true
    }

    fn deferral_limit(&self) -> Option<Duration> {
        self.0.deferral_limit()
    }
}

/// See [`InterceptExt::time_limit`].
#[derive(Clone, Debug)]
pub struct TimeLimit<I> {
    intercept: I,
    limit: Duration,
}

impl<I: Intercept> Intercept for TimeLimit<I> {
    fn open(&self, head: &Head<'_>) -> Option<Box<dyn Interceptor>> {
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

/// What [`SseProxyLayer::intercept`](crate::SseProxyLayer::intercept) takes: an [`Intercept`], or a function
/// of an event, `Fn(Event) -> impl Into<Verdict>`.
///
/// `M` only tells the two apart and is always inferred. For a function of an event that needs the
/// [adapters](InterceptExt), say [`EachEvent::new`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be installed as an interceptor",
    label = "neither an `Intercept` nor a function of an event",
    note = "a function of an event: `|event: Event| ..`, which gives a `Verdict`, `Event`, `Option<Event>` or `Vec<Event>`",
    note = "an `Interceptor` belongs to one stream: `|_: &Head<'_>| Some(MyInterceptor::new())` opens one for each",
    note = "the argument of a closure has to be annotated, as above",
    note = "for async code: `Verdict::defer`, or `ServiceInterceptor` around a service that is `Clone + Send + Sync`"
)]
pub trait IntoIntercept<M> {
    /// What it becomes.
    type Intercept: Intercept;

    /// Makes it one.
    fn into_intercept(self) -> Self::Intercept;
}

/// Tell the forms of [`IntoIntercept`] apart.
#[doc(hidden)]
pub mod marker {
    /// An [`Intercept`](super::Intercept) already.
    #[derive(Debug)]
    pub enum Factory {}
    /// A function of an event.
    #[derive(Debug)]
    pub enum Function {}
}

impl<I: Intercept> IntoIntercept<marker::Factory> for I {
    type Intercept = I;

    fn into_intercept(self) -> I {
        self
    }
}

impl<F, V> IntoIntercept<(marker::Function, V)> for F
where
    F: Fn(Event) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    type Intercept = EachEvent<F>;

    fn into_intercept(self) -> EachEvent<F> {
        EachEvent::new(self)
    }
}

/// A function as an interceptor without a state: the same for every event of every stream.
///
/// It sees events. Comments, bare ids and unknown fields pass it by; what must see every byte implements
/// [`Interceptor::block`].
///
/// ```
/// use std::time::Duration;
/// use tower_sse_proxy::{Event, intercept::{EachEvent, InterceptExt, Verdict}};
///
/// let ask = EachEvent::new(|event: Event| Verdict::defer(async { Ok(event) }))
///     .time_limit(Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct EachEvent<F>(Arc<F>);

impl<F> EachEvent<F> {
    /// Makes an [`Intercept`] of a function `Fn(Event) -> impl Into<Verdict>`.
    pub fn new<V>(function: F) -> Self
    where
        F: Fn(Event) -> V + Send + Sync + 'static,
        V: Into<Verdict>,
    {
        Self(Arc::new(function))
    }
}

impl<F, V> Intercept for EachEvent<F>
where
    F: Fn(Event) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    fn open(&self, _head: &Head<'_>) -> Option<Box<dyn Interceptor>> {
        let function = Arc::clone(&self.0);
        Some(Box::new(move |event: Event| function(event)))
    }
}
