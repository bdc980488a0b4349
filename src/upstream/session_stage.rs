//! Session ids inside a stream: the stage before the interceptors.

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

/// Puts the client's ids in the place of the upstream's, where a rule names a place in an event.
pub(crate) struct SessionStage {
    shared: Arc<Shared>,
}

/// What a deferred verdict takes with it.
struct Shared {
    binder: SessionBinder,
    sessions: Arc<SessionMapping>,
    /// The head as the client sent it.
    request: Arc<request::Parts>,
    owner: Owner,
    upstream: Option<UpstreamKey>,
    /// The number of the stream: any that others hardly have.
    stream: u64,
    known: Mutex<Known>,
}

/// The sessions that the stream has told of, each kept alive, or forgotten with the stream.
type Known = Vec<(Session, Option<SessionLease>)>;

/// An upstream that gives a new id with every event does not make us keep them all.
const MOST_KNOWN: usize = 64;

impl SessionStage {
    pub(crate) fn new(
        binder: SessionBinder,
        sessions: Arc<SessionMapping>,
        request: Arc<request::Parts>,
        owner: Owner,
        upstream: Option<UpstreamKey>,
        session: Option<Session>,
    ) -> Self {
        let shared = Shared {
            binder,
            sessions,
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
        if shared.sessions.has_endpoints() && event.event_type() == "endpoint" {
            let (data, stream) = (event.data(), shared.stream);
            return match shared.sessions.endpoint(&data, &shared.request, stream) {
                Ok(id) => Verdict::defer(Arc::clone(shared).endpoint(event, id)),
                Err(error) => Verdict::fail(failed(error)),
            };
        }
        let Some((json, ids)) = shared.ids_in(&event) else {
            return event.into();
        };
        if let Some(event) = shared.translated(&event, json.clone()) {
            return event.into();
        }
        Verdict::defer(Arc::clone(shared).data(event, json, ids))
    }
}

impl Shared {
    /// The ids in an event's data, if there are any.
    fn ids_in(&self, event: &Event) -> Option<(Json, Vec<UpstreamSessionId>)> {
        let pointers = self.sessions.pointers();
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

    /// The event with the client's ids, if all are known.
    fn translated(&self, event: &Event, mut json: Json) -> Option<Event> {
        for pointer in self.sessions.pointers() {
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

    async fn data(
        self: Arc<Self>,
        event: Event,
        json: Json,
        ids: Vec<UpstreamSessionId>,
    ) -> Result<Event, BoxError> {
        for id in ids {
            self.bind(id, false).await?;
        }
        let translated = self.translated(&event, json);
        translated.ok_or_else(|| failed("an id cannot be put in its place"))
    }

    async fn endpoint(
        self: Arc<Self>,
        mut event: Event,
        id: UpstreamSessionId,
    ) -> Result<Event, BoxError> {
        let session = self.bind(id, true).await?;
        event.set_data(self.sessions.client_endpoint(&self.request, &session));
        Ok(event)
    }

    async fn bind(
        &self,
        id: UpstreamSessionId,
        for_this_stream: bool,
    ) -> Result<Session, BoxError> {
        let bound = self.binder.bind(id, self.owner, self.upstream.clone());
        let session = bound.await.map_err(failed)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.iter().any(|(old, _)| old.id == session.id) {
            if known.len() == MOST_KNOWN {
                known.remove(0);
            }
            let lease = self.binder.lease(&session, for_this_stream);
            known.push((session.clone(), lease));
        }
        Ok(session)
    }
}

fn failed(why: impl Into<BoxError>) -> BoxError {
    Error::with_source(ErrorKind::Session, why).into()
}
