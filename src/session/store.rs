//! The store of sessions: a tower service, whatever is behind it.

use std::time::{Duration, SystemTime};

use tower::BoxError;
use tower_service::Service;

use super::{Owner, SessionId, StreamCount, UpstreamKey, UpstreamSessionId, streams::OpenStream};

/// What a [`SessionStore`] is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionRequest {
    /// The session of this id, if there is one that has not expired. Being asked for keeps a session alive,
    /// whoever asks.
    ///
    /// The answer is the same for every asker: whether the session is theirs is for the layer to see.
    Lookup(SessionId),
    /// Keep this session under an id of the store's own, or answer `None` if there is no room for it. If the same owner has bound the same upstream id of the same
    /// upstream already, the answer is the session in force.
    Bind(NewSession),
    /// The session is in use. The answer is the session, or `None` if it is no more.
    Touch(SessionId),
    /// Forget the session. The answer is what was forgotten, if anything was.
    Remove(SessionId),
}

/// A session that an upstream has opened and that has no id of ours yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NewSession {
    /// The id that the upstream gave it.
    pub upstream_id: UpstreamSessionId,
    /// The upstream it lives on, if the service inside told.
    pub upstream: Option<UpstreamKey>,
    /// Whose it is.
    pub owner: Owner,
}

impl NewSession {
    /// A session of one upstream.
    pub fn new(upstream_id: UpstreamSessionId, owner: Owner) -> Self {
        Self {
            upstream_id,
            upstream: None,
            owner,
        }
    }

    /// The same on this upstream, if it is known.
    pub fn with_upstream(mut self, upstream: Option<UpstreamKey>) -> Self {
        self.upstream = upstream;
        self
    }
}

/// A session as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The id that the client has.
    pub id: SessionId,
    /// The id that the upstream has.
    pub upstream_id: UpstreamSessionId,
    /// The upstream it lives on, if the service inside told.
    pub upstream: Option<UpstreamKey>,
    /// Whose it is.
    pub owner: Owner,
    /// When it was bound, by the store's wall clock.
    pub created: SystemTime,
    /// When it was last asked for, as far as the store knows, by its wall clock.
    pub last_seen: SystemTime,
    /// How long it lives without being asked for, or `None` if that makes no difference. A stream of the session touches it
    /// several times in this time.
    pub idle_timeout: Option<Duration>,
    /// How many streams of the session are open, if the store wants to know: it shares a count with the layer.
    pub open_streams: Option<StreamCount>,
}

impl Session {
    /// A session that is bound now. It names no [`idle_timeout`](Self::idle_timeout): a store that has one sets it, or the streams
    /// of a session do not keep it alive.
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

    /// Counts the session as in use, where the store wants to know, until the guard is dropped.
    pub(crate) fn in_use(&self) -> Option<OpenStream> {
        self.open_streams.as_ref().map(StreamCount::open)
    }

    /// Whether it is what a store was asked for. One that mixes up its answers must not mix up those who ask.
    pub(super) fn answers(&self, request: &SessionRequest) -> bool {
        match request {
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) | SessionRequest::Remove(id) => {
                self.id == *id
            }
            SessionRequest::Bind(new) => {
                (&self.upstream_id, self.owner) == (&new.upstream_id, new.owner)
            }
        }
    }
}

/// Keeps which session of the client is which of the upstream.
///
/// Any tower service that answers a [`SessionRequest`] with an `Option<Session>` is one: wrap a store in tower's `Timeout`,
/// `Retry`, `ConcurrencyLimit` or `Buffer`, or write one as a function. (Of tower's boxes, `BoxCloneSyncService` is `Sync`.) The
/// feature `testing` has tests for what a store promises. A store that outlives the process, or that several share, keeps owners
/// that the next one can tell only with the same [`owner_key`](crate::SseProxyLayer::owner_key).
///
/// The layer calls it by `oneshot` on a clone of its own, with a [time limit](super::SessionMapping::store_timeout), and only for
/// requests that have to do with sessions. A store that fails, panics, takes too long, answers `Bind` with `None` or answers with
/// another session than it was asked for is answered 503, and in an event stream cuts it. A warning to `tracing` tells which of
/// these it was, but not the store's error, which may hold ids: log that in the store, or in a layer around it.
///
/// ```
/// use std::{collections::HashMap, convert::Infallible, sync::{Arc, Mutex}, time::SystemTime};
/// use tower::{ServiceBuilder, service_fn};
/// use tower_sse_proxy::{SseProxyLayer, session::{Session, SessionId, SessionRequest, SessionStore, SessionMapping}};
///
/// /// Keeps everything for ever: a start, not a store.
/// fn hoard() -> impl SessionStore {
///     let all = Arc::new(Mutex::new(HashMap::<SessionId, Session>::new()));
///     service_fn(move |request| {
///         let mut all = all.lock().unwrap();
///         let answer = match request {
///             SessionRequest::Lookup(id) | SessionRequest::Touch(id) => all.get(&id).cloned(),
///             SessionRequest::Remove(id) => all.remove(&id),
///             SessionRequest::Bind(new) => {
///                 let same = |old: &&Session| {
///                     (&old.upstream_id, &old.upstream, old.owner) == (&new.upstream_id, &new.upstream, new.owner)
///                 };
///                 let session = match all.values().find(same) {
///                     Some(old) => old.clone(),
///                     None => Session::new(SessionId::random(), new, SystemTime::now()),
///                 };
///                 all.insert(session.id.clone(), session.clone());
///                 Some(session)
///             }
///             _ => None,
///         };
///         async move { Ok::<_, Infallible>(answer) }
///     })
/// }
///
/// let store = ServiceBuilder::new().concurrency_limit(64).service(hoard());
/// let layer = SseProxyLayer::new(store).sessions(SessionMapping::header("x-session"));
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
