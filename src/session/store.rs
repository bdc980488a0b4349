//! The interface of a session store: requests, sessions and the trait [`SessionStore`].

use std::time::{Duration, SystemTime};

use tower::BoxError;
use tower_service::Service;

use super::{Owner, SessionId, StreamCount, UpstreamKey, UpstreamSessionId, streams::OpenStream};

/// A request to a [`SessionStore`]. The response is an `Option<Session>`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionRequest {
    /// Returns the session with this id, or `None` if the id is unknown or the session has expired. A lookup restarts the idle
    /// timeout of the session.
    ///
    /// The store does not check the owner: the layer compares [`Session::owner`] with the owner of the request.
    Lookup(SessionId),
    /// Stores the session under a new id that the store chooses, and returns it. If the same owner has already bound the same
    /// upstream id of the same upstream, returns that session. Returns `None` if the store has no room for the session.
    Bind(NewSession),
    /// Restarts the idle timeout of the session and returns it, or `None` if the id is unknown or the session has expired.
    Touch(SessionId),
    /// Removes the session and returns it, or `None` if there was none.
    Remove(SessionId),
    /// Replaces the upstream session id and the upstream of the session with this id, and returns the session. The client's id, the
    /// owner and the age of the session do not change, and its idle timeout restarts. Returns `None` if the id is unknown, the session
    /// has expired or has another owner, or the store cannot change a session.
    ///
    /// Healing ([`profile::heal`](crate::profile::heal)) sends this request. If a store cannot change a session, a healed session works
    /// only on the node that healed it.
    Rebind(SessionId, NewSession),
}

/// A session that an upstream has opened, and that has no client session id yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NewSession {
    /// The session id that the upstream chose.
    pub upstream_id: UpstreamSessionId,
    /// The upstream that the session is on, or `None` if the inner service did not set an [`UpstreamKey`].
    pub upstream: Option<UpstreamKey>,
    /// The owner of the request that opened the session.
    pub owner: Owner,
}

impl NewSession {
    /// A session without an [`UpstreamKey`].
    pub fn new(upstream_id: UpstreamSessionId, owner: Owner) -> Self {
        Self {
            upstream_id,
            upstream: None,
            owner,
        }
    }

    /// Sets the upstream that the session is on.
    pub fn with_upstream(mut self, upstream: Option<UpstreamKey>) -> Self {
        self.upstream = upstream;
        self
    }
}

/// A session in a [`SessionStore`].
///
/// # Serialization
///
/// With the feature `serde`, a session can be kept outside of the process. In JSON it is an object:
///
/// ```json
/// {
///   "id": "0b1c2d",
///   "upstream_id": "7f3a",
///   "upstream": "10.0.0.7:8080",
///   "owner": "0909090909090909090909090909090909090909090909090909090909090909",
///   "created": { "secs_since_epoch": 1800000000, "nanos_since_epoch": 0 },
///   "last_seen": { "secs_since_epoch": 1800000060, "nanos_since_epoch": 500000000 },
///   "idle_timeout": { "secs": 1800, "nanos": 0 }
/// }
/// ```
///
/// * `upstream` and `idle_timeout` may be `null` or absent.
/// * `owner` is 64 hexadecimal digits. Nodes that share sessions need the same [`owner_key`](crate::SseProxyLayer::owner_key).
/// * Times before 1970 are an error.
/// * [`open_streams`](Self::open_streams) belongs to the process and is not serialized. It is `None` after deserialization.
/// * Unknown members are ignored.
///
/// [`SessionId`], [`UpstreamSessionId`] and [`UpstreamKey`] are strings. [`NewSession`] is an object with `upstream_id`, `upstream` and
/// `owner`. A session id is a secret: a client that has it and passes for its owner can use the session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The session id that the client uses.
    pub id: SessionId,
    /// The session id that the upstream uses.
    pub upstream_id: UpstreamSessionId,
    /// The upstream that the session is on, or `None` if the inner service did not set an [`UpstreamKey`].
    pub upstream: Option<UpstreamKey>,
    /// The owner of the request that opened the session.
    pub owner: Owner,
    /// When the session was bound, by the store's wall clock.
    pub created: SystemTime,
    /// When the session was last looked up or touched, by the store's wall clock. It may be older than the last use if the store does
    /// not record each use.
    pub last_seen: SystemTime,
    /// How long the session lives without a lookup or a touch. `None` if the session has no idle timeout. While a stream of the
    /// session is open, the layer touches the session three times in each timeout, but at most every 10 ms.
    pub idle_timeout: Option<Duration>,
    /// The number of open streams of the session, shared between the store and the layer. `None` if the store does not need it.
    pub open_streams: Option<StreamCount>,
}

impl Session {
    /// A session that is bound at `now`. It has no [`idle_timeout`](Self::idle_timeout): a store with an idle timeout must set
    /// the field, or open streams do not keep the session alive.
    pub fn new(id: SessionId, new: NewSession, now: SystemTime) -> Self {
        Self {
            id,
            upstream_id: new.upstream_id,
            upstream: new.upstream,
            owner: new.owner,
            created: now,
            last_seen: now,
            idle_timeout: None,
            open_streams: None,
        }
    }

    /// Adds one to [`open_streams`](Self::open_streams), if the store needs the number, until the guard is dropped.
    pub(crate) fn in_use(&self) -> Option<OpenStream> {
        self.open_streams.as_ref().map(StreamCount::open)
    }

    /// Whether this session is a correct response to the request. The layer checks it, so that a faulty store cannot give one
    /// client the session of another.
    pub(super) fn answers(&self, request: &SessionRequest) -> bool {
        match request {
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) | SessionRequest::Remove(id) => {
                self.id == *id
            }
            SessionRequest::Bind(new) => self.is_bound_to(new),
            SessionRequest::Rebind(id, new) => self.id == *id && self.is_bound_to(new),
        }
    }

    fn is_bound_to(&self, new: &NewSession) -> bool {
        (&self.upstream_id, self.owner) == (&new.upstream_id, new.owner)
    }
}

/// A store that maps client session ids to upstream session ids.
///
/// Any tower service that answers a [`SessionRequest`] with an `Option<Session>` is a store. Wrap a store in tower's `Timeout`,
/// `Retry`, `ConcurrencyLimit` or `Buffer`, or write one as a function. (Of tower's boxed services, only `BoxCloneSyncService` is
/// `Sync`.) The feature `testing` adds tests of what a store must do. If several processes share a store, or the store outlives the
/// process, set the same [`owner_key`](crate::SseProxyLayer::owner_key) in all of them.
///
/// The layer calls a clone of the store with `oneshot` and a [time limit](super::SessionMapping::store_timeout). Requests and
/// responses without a session id cause no call.
///
/// # Errors
///
/// A store fails if it returns an error, panics, exceeds the time limit, answers `Bind` with `None`, or returns a session that does
/// not match the request. The layer then answers the request with 503, or ends the event stream with an error. It logs the kind of
/// failure as a warning with [`tracing`], without the store's error, which may contain session ids. Log the error in the store, or in a
/// layer around it.
///
/// # Example
///
/// ```
/// use std::{collections::HashMap, convert::Infallible, sync::{Arc, Mutex}, time::SystemTime};
/// use http::HeaderName;
/// use tower::{ServiceBuilder, service_fn};
/// use tower_sse_proxy::{SseProxyLayer, session::{Session, SessionId, SessionRequest, SessionStore, SessionMapping}};
///
/// /// Never removes an expired session: an example, not a store for production.
/// fn unbounded_store() -> impl SessionStore {
///     let sessions = Arc::new(Mutex::new(HashMap::<SessionId, Session>::new()));
///     service_fn(move |request| {
///         let mut sessions = sessions.lock().unwrap();
///         let response = match request {
///             SessionRequest::Lookup(id) | SessionRequest::Touch(id) => sessions.get(&id).cloned(),
///             SessionRequest::Remove(id) => sessions.remove(&id),
///             SessionRequest::Bind(new) => {
///                 let is_same = |old: &&Session| {
///                     (&old.upstream_id, &old.upstream, old.owner) == (&new.upstream_id, &new.upstream, new.owner)
///                 };
///                 let session = match sessions.values().find(is_same) {
///                     Some(old) => old.clone(),
///                     None => Session::new(SessionId::random(), new, SystemTime::now()),
///                 };
///                 sessions.insert(session.id.clone(), session.clone());
///                 Some(session)
///             }
///             _ => None,
///         };
///         async move { Ok::<_, Infallible>(response) }
///     })
/// }
///
/// let store = ServiceBuilder::new().concurrency_limit(64).service(unbounded_store());
/// let layer = SseProxyLayer::new(store).sessions(SessionMapping::header(HeaderName::from_static("x-session")));
/// ```
pub trait SessionStore:
    Service<
        SessionRequest,
        Response = Option<Session>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> SessionStore for S
where
    S: Service<SessionRequest, Response = Option<Session>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
}
