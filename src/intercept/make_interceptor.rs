//! Interceptor factories, and the conversion of functions into them.

use std::{sync::Arc, time::Duration};

use super::{Interceptor, StreamHead, Verdict};
use crate::codec::Event;

/// Opens an [`Interceptor`] for each stream. All streams of a layer share one factory.
///
/// Install it with [`SseProxyLayer::intercept`](crate::SseProxyLayer::intercept) or
/// [`Policy::intercept`](crate::Policy::intercept). A function `Fn(&StreamHead) -> Option<impl Interceptor>` implements this
/// trait.
///
/// ```
/// use tower_sse_proxy::{Event, SseProxyLayer, intercept::{Interceptor, MakeInterceptor, StreamHead, Verdict}};
///
/// /// Adds the same prefix to the events of all streams.
/// struct Prefix(&'static str);
///
/// impl MakeInterceptor for Prefix {
///     fn open(&self, _head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
///         let prefix = self.0;
///         Some(Box::new(move |mut event: Event| {
///             event.set_data(format!("{prefix}{}", event.data()));
///             event
///         }))
///     }
/// }
///
/// let layer = SseProxyLayer::default().intercept(Prefix("> "));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `MakeInterceptor`",
    label = "not a factory of interceptors",
    note = "a function of an event: wrap it in `event_fn(|event: Event| ..)`",
    note = "a value that implements `Interceptor`: write `|_: &StreamHead<'_>| Some(MyInterceptor::new())`"
)]
pub trait MakeInterceptor: Send + Sync + 'static {
    /// Returns an interceptor for the stream with this head, or `None` to leave the stream to the other interceptors.
    ///
    /// The layer calls this once for each stream, when the response head has arrived.
    ///
    /// # Panics
    /// The layer catches a panic and answers the request with 502, because the stream must not pass without its interceptor.
    fn open(&self, head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>>;

    /// Whether a block passes unchanged when the interceptor fails on it. Default: `false`, the stream is cut.
    ///
    /// [`MakeInterceptorExt::fail_open`](super::MakeInterceptorExt::fail_open) sets it.
    fn fails_open(&self) -> bool {
        false
    }

    /// The longest time that a [deferred](Verdict::Defer) verdict may take. Default: `None`, no limit.
    ///
    /// [`MakeInterceptorExt::time_limit`](super::MakeInterceptorExt::time_limit) sets it.
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

// `Box` for a factory that is chosen at run time, `Arc` for one that two policies share.
pointer!(Box, Arc);

/// Converts into a [`MakeInterceptor`].
///
/// Implemented for every [`MakeInterceptor`] and for functions of an event, `Fn(Event) -> impl Into<Verdict>`.
/// [`SseProxyLayer::intercept`](crate::SseProxyLayer::intercept) and the adapters of
/// [`MakeInterceptorExt`](super::MakeInterceptorExt) take both.
///
/// The compiler infers `M`, which separates the two implementations.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used as an interceptor",
    label = "neither a `MakeInterceptor` nor a function `Fn(Event) -> impl Into<Verdict>`",
    note = "a closure: annotate its argument, `|event: Event| ..`, and return a `Verdict`, `Event`, `Option<Event>` or `Vec<Event>`",
    note = "a closure that changes variables it captures (`FnMut`) keeps the state of one stream: return it from a function that opens it, \
            `|_: &StreamHead<'_>| {{ let mut count = 0; Some(move |event: Event| ..) }}`",
    note = "a value that implements `Interceptor` belongs to one stream, too: `|_: &StreamHead<'_>| Some(MyInterceptor::new())`",
    note = "an `async` function: return `Verdict::defer(future)`, or wrap a `Clone + Send + Sync` tower service in `ServiceInterceptor::new`"
)]
pub trait IntoMakeInterceptor<M> {
    /// The factory that [`into_make_interceptor`](Self::into_make_interceptor) returns.
    type MakeInterceptor: MakeInterceptor;

    /// Converts `self` into a factory.
    fn into_make_interceptor(self) -> Self::MakeInterceptor;
}

/// Markers that separate the implementations of [`IntoMakeInterceptor`].
#[doc(hidden)]
pub mod marker {
    /// For every [`MakeInterceptor`](super::MakeInterceptor).
    #[derive(Debug)]
    pub enum Factory {}
    /// For functions of an event.
    #[derive(Debug)]
    pub enum Function {}
}

#[diagnostic::do_not_recommend]
impl<I: MakeInterceptor> IntoMakeInterceptor<marker::Factory> for I {
    type MakeInterceptor = I;

    fn into_make_interceptor(self) -> I {
        self
    }
}

#[diagnostic::do_not_recommend]
impl<F, V> IntoMakeInterceptor<(marker::Function, V)> for F
where
    F: Fn(Event) -> V + Send + Sync + 'static,
    V: Into<Verdict>,
{
    type MakeInterceptor = EventFn<F>;

    fn into_make_interceptor(self) -> EventFn<F> {
        event_fn(self)
    }
}

/// Makes a [`MakeInterceptor`] from a function of an event, as [`tower::service_fn`] makes a service.
///
/// Use it where a named factory type is needed, such as `Arc<dyn MakeInterceptor>`.
/// [`SseProxyLayer::intercept`](crate::SseProxyLayer::intercept) and [`MakeInterceptorExt`](super::MakeInterceptorExt) take
/// functions without it.
///
/// All streams share the function, so it has no state of one stream. It sees events only: comments, blocks without data and
/// unknown fields pass unseen. An interceptor that has to see every byte implements [`Interceptor::block`].
///
/// ```
/// use std::sync::Arc;
/// use tower_sse_proxy::{Event, intercept::{MakeInterceptor, event_fn}};
///
/// let no_pings = event_fn(|event: Event| (event.event_type() != "ping").then_some(event));
/// let shared: Arc<dyn MakeInterceptor> = Arc::new(no_pings);
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
