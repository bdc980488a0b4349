//! The layer, which is its own builder.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{request, response};
use http_body::Body;
use tower_layer::Layer;

use super::{
    body::{Budget, HealBody},
    service::Heal,
    sessions::Sessions,
    settings::Settings,
};
use crate::session::healed::Healed;

/// Heals MCP sessions that the upstream has lost. Put it inside of the [`SseProxyLayer`](crate::SseProxyLayer) that maps the sessions.
/// See [the module](super).
///
/// Requests of policies without [session mapping](crate::SseProxyLayer::sessions) pass untouched. Layers between the two have to keep the
/// extensions of requests and responses.
///
/// A clone shares the stored requests. The setters apply to this clone and to later clones of it; set them before you clone.
///
/// # Requirements
///
/// The request body type has to be one that can hold any body, such as `axum::body::Body` or `http_body_util::combinators::BoxBody`. The
/// healing runs in a tokio task, so that it ends also if its client disconnects.
///
/// ```
/// use std::time::Duration;
/// use axum::body::Body;
/// use tower_sse_proxy::profile::heal::{HealLayer, Healed, is_safe};
///
/// let layer = HealLayer::new(Body::new)
///     // This server marks tools that may be called twice.
///     .repeat_if(|request, body: &[u8]| is_safe(request, body) || request.headers.contains_key("x-idempotent"))
///     .on_healed(|healed: &Healed| if healed.had_subscriptions() { println!("a client gets no more updates") })
///     .time_limit(Duration::from_secs(5));
/// ```
pub struct HealLayer<ReqB: Body> {
    settings: Arc<Settings<ReqB>>,
    sessions: Arc<Sessions>,
    budget: Arc<Budget>,
}

/// The default of [`HealLayer::max_bytes`].
const MAX_BYTES: usize = 16 << 20;

impl<ReqB: Body> HealLayer<ReqB> {
    /// Creates a layer. The function turns the body of a request that the layer has read, or makes itself, into the body type of the
    /// service: `axum::body::Body::new` or `http_body_util::combinators::BoxBody::new`.
    pub fn new(wrap: impl Fn(HealBody<ReqB>) -> ReqB + Send + Sync + 'static) -> Self {
        Self {
            settings: Arc::new(Settings::new(Arc::new(wrap))),
            sessions: Arc::new(Sessions::new(MAX_BYTES)),
            budget: Arc::new(Budget::new(MAX_BYTES)),
        }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings<ReqB>)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Sets which requests may be repeated after a healing. Default: [`is_safe`](super::is_safe). The predicate gets the head and the body
    /// of a `POST` request with a body of at most [`max_body_bytes`](Self::max_body_bytes), or of a `GET` without a body. It is called
    /// before the request is sent.
    pub fn repeat_if(
        self,
        predicate: impl Fn(&request::Parts, &[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.repeat_if = Arc::new(predicate))
    }

    /// Sets which responses to a `GET` or `POST` mean that the upstream has lost the session. Default: those with status 404, as MCP
    /// specifies. Some servers answer with 400.
    pub fn lost_when(
        self,
        predicate: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.lost_when = Arc::new(predicate))
    }

    /// Sets a function that is called once for each healing, after the new upstream session was bound. It must not block. A panic in it is
    /// caught, and has no other effect.
    pub fn on_healed(self, call: impl Fn(&Healed) + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_healed = Arc::new(call))
    }

    /// Sets the time limit for a healing. Default: 10 s. After the limit, the clients that wait get their 404.
    pub fn time_limit(self, limit: Duration) -> Self {
        self.set(|settings| settings.time_limit = limit)
    }

    /// Sets the maximum size of a request body that is stored or repeated, in bytes. Default: 64 KiB. The layer forwards a larger body, and
    /// the body of a request with `Incremental: ?1` (RFC 10036), as it arrives. It does not repeat such a request, and does not heal a
    /// session that such an `initialize` has opened.
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.set(|settings| settings.max_body_bytes = bytes)
    }

    /// Sets the maximum size of all stored `initialize` requests, with their headers, in bytes. Default: 16 MiB. The same limit applies to
    /// all request bodies that are held at the same time. A request that does not fit is forwarded, and not repeated.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.sessions = Arc::new(Sessions::new(bytes));
        self.budget = Arc::new(Budget::new(bytes));
        self
    }
}

impl<S, ReqB: Body<Data = Bytes>> Layer<S> for HealLayer<ReqB> {
    type Service = Heal<S, ReqB>;

    fn layer(&self, inner: S) -> Heal<S, ReqB> {
        let (sessions, budget) = (Arc::clone(&self.sessions), Arc::clone(&self.budget));
        Heal::new(inner, Arc::clone(&self.settings), sessions, budget)
    }
}

impl<ReqB: Body> Clone for HealLayer<ReqB> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            sessions: Arc::clone(&self.sessions),
            budget: Arc::clone(&self.budget),
        }
    }
}

impl<ReqB: Body> fmt::Debug for HealLayer<ReqB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealLayer")
            .field("time_limit", &self.settings.time_limit)
            .field("max_body_bytes", &self.settings.max_body_bytes)
            .finish_non_exhaustive()
    }
}
