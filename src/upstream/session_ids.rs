//! Session ids in the data of events: the stage that translates them, before all interceptors.

use std::sync::{Arc, Mutex, PoisonError};

use http::request;
use tower::BoxError;

use crate::{
    codec::Event,
    error::{Error, ErrorKind},
    intercept::{Interceptor, Json, Verdict},
    session::{
        Owner, Session, SessionBinder, SessionLease, SessionMapping, UpstreamKey, UpstreamSessionId,
    },
};

/// Replaces upstream session ids in events by client session ids, at the locations that the session mapping names.
///
/// An unknown upstream id is bound to a new session first: the verdict is deferred until the store has answered. An error of the
/// store fails the stream with [`ErrorKind::Session`].
pub(crate) struct SessionStage {
    shared: Arc<Shared>,
}

/// The state that a deferred verdict shares with its stage.
struct Shared {
    binder: SessionBinder,
    mapping: Arc<SessionMapping>,
    /// The request head of the client, unchanged.
    request: Arc<request::Parts>,
    owner: Owner,
    upstream: Option<UpstreamKey>,
    /// A random number that distinguishes the endpoints of this stream from those of others.
    stream: u64,
    known: Mutex<KnownSessions>,
}

/// The sessions whose ids occurred in the stream. The lease of a session keeps it alive while the stream is open, or removes it at
/// the end of the stream.
type KnownSessions = Vec<(Session, Option<SessionLease>)>;

/// The number of known sessions of a stream. Bounds the memory for an upstream that sends a new id with each event.
const MAX_KNOWN_SESSIONS: usize = 64;

impl SessionStage {
    /// A stage for the response to `request`. `session` is the session of the request, if it has one.
    pub(crate) fn new(
        binder: SessionBinder,
        mapping: Arc<SessionMapping>,
        request: Arc<request::Parts>,
        owner: Owner,
        upstream: Option<UpstreamKey>,
        session: Option<Session>,
    ) -> Self {
        let shared = Shared {
            binder,
            mapping,
            request,
            owner,
            upstream,
            stream: fastrand::u64(..),
            known: Mutex::new(session.map(|session| (session, None)).into_iter().collect()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Interceptor for SessionStage {
    fn event(&mut self, event: Event) -> Verdict {
        let shared = &self.shared;
        if shared.mapping.has_endpoints() && event.event_type() == "endpoint" {
            let (data, stream) = (event.data(), shared.stream);
            return match shared.mapping.endpoint(&data, &shared.request, stream) {
                Ok(id) => Verdict::defer(Arc::clone(shared).translate_endpoint(event, id)),
                Err(error) => Verdict::fail(failed(error)),
            };
        }
        let Some((json, ids)) = shared.ids_in(&event) else {
            return event.into();
        };
        if let Some(event) = shared.translated(&event, json.clone()) {
            return event.into();
        }
        Verdict::defer(Arc::clone(shared).translate_data(event, json, ids))
    }
}

impl Shared {
    /// The upstream session ids in the data of an event. `None` if there are none.
    fn ids_in(&self, event: &Event) -> Option<(Json, Vec<UpstreamSessionId>)> {
        let pointers = self.mapping.pointers();
        if pointers.is_empty() {
            return None;
        }
        let json = Json::parse(event.data()).ok()?;
        let ids = pointers.iter().filter_map(|pointer| {
            let value = json.pointer(pointer)?;
            value.as_str().map(|id| UpstreamSessionId::new(&*id))
        });
        let ids: Vec<_> = ids.collect();
        (!ids.is_empty()).then_some((json, ids))
    }

    /// The event with client session ids. `None` if an upstream id is unknown.
    fn translated(&self, event: &Event, mut json: Json) -> Option<Event> {
        for pointer in self.mapping.pointers() {
            let id = json
                .pointer(pointer)
                .and_then(|value| value.as_str().map(|id| id.into_owned()));
            let Some(id) = id else { continue };
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut sessions = known.iter().map(|(session, _)| session);
            let session = sessions.find(|session| session.upstream_id.as_str() == id)?;
            json.set_str(pointer, session.id.as_str()).ok()?;
        }
        let mut event = event.clone();
        event.set_data(json);
        Some(event)
    }

    /// Binds the ids in the data of an event, and translates the event.
    async fn translate_data(
        self: Arc<Self>,
        event: Event,
        json: Json,
        ids: Vec<UpstreamSessionId>,
    ) -> Result<Event, BoxError> {
        for id in ids {
            self.bind(id, false).await?;
        }
        let translated = self.translated(&event, json);
        translated.ok_or_else(|| failed("cannot write the client session id into the event"))
    }

    /// Binds the id in an `endpoint` event, and replaces its URL by one of the layer.
    async fn translate_endpoint(
        self: Arc<Self>,
        mut event: Event,
        id: UpstreamSessionId,
    ) -> Result<Event, BoxError> {
        let session = self.bind(id, true).await?;
        event.set_data(self.mapping.client_endpoint(&self.request, &session));
        Ok(event)
    }

    /// Binds an upstream id to a session, and leases the session. `ends_with_stream`: whether the session is removed at the end
    /// of the stream.
    async fn bind(
        &self,
        id: UpstreamSessionId,
        ends_with_stream: bool,
    ) -> Result<Session, BoxError> {
        let bound = self.binder.bind(id, self.owner, self.upstream.clone());
        let session = bound.await.map_err(failed)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().any(|(old, _)| old.id == session.id) {
            if known.len() == MAX_KNOWN_SESSIONS {
                known.remove(0);
            }
            let lease = self.binder.lease(&session, ends_with_stream);
            known.push((session.clone(), lease));
        }
        Ok(session)
    }
}

fn failed(source: impl Into<BoxError>) -> BoxError {
    Error::with_source(ErrorKind::Session, source).into()
}
