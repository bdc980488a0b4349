//! Session mapping of one request: its session id is translated, and the ids in the response are bound.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, request, response};

use crate::{
    exchange::context::RequestContext,
    rejection::{Rejection, RejectionReason},
    replay::RecordedStreams,
    session::{
        OnBound, OpenStream, Owner, Rebound, Session, SessionBinder, SessionId, SessionLease,
        SessionLink, SessionMapping, SessionRequest, UpstreamKey, UpstreamSessionId,
    },
    upstream::SessionStage,
};

/// A request to which session mapping applies, with the session that it belongs to.
pub(crate) struct SessionContext {
    mapping: Arc<SessionMapping>,
    binder: SessionBinder,
    streams: Arc<RecordedStreams>,
    /// The head as the client sent it.
    client: Arc<request::Parts>,
    owner: Owner,
    upstream: Option<UpstreamKey>,
    session: Option<Session>,
    /// Keeps a store from evicting the session until the stream has a lease.
    _in_use: Option<OpenStream>,
}

impl SessionContext {
    /// Finds the session of a request, and puts the upstream's id in the place of the client's.
    ///
    /// Returns `None` if the policy maps no sessions. Rejects the request with 400 if its id is malformed, with 404 if the owner has
    /// no such session, and with 503 if the store fails.
    pub(crate) async fn resolve(
        request: &RequestContext,
        client: &Arc<request::Parts>,
        parts: &mut request::Parts,
    ) -> Result<Option<Box<Self>>, Rejection> {
        let Some(mapping) = &request.policy.sessions else {
            return Ok(None);
        };
        let mut context = Self {
            mapping: Arc::clone(mapping),
            binder: request.state.session_binder(mapping),
            streams: Arc::clone(&request.state.streams),
            client: Arc::clone(client),
            owner: request.owner(client),
            upstream: None,
            session: None,
            _in_use: None,
        };
        context.session = context.find(parts).await?;
        if mapping.translates_ids() {
            parts.extensions.insert(SessionLink {
                session: context.session.clone(),
                binder: context.binder.clone(),
                resumes_call: false,
                on_healed: request.state.observers.on_healed(),
            });
        }
        context._in_use = context.session.as_ref().and_then(Session::in_use);
        Ok(Some(Box::new(context)))
    }

    /// The id by which the client names its session from now on.
    pub(crate) fn id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id.clone())
    }

    async fn find(&self, request: &mut request::Parts) -> Result<Option<Session>, Rejection> {
        let mapping = &self.mapping;
        mapping.strip_request(request);
        let id = match mapping.id_of(request) {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(None),
            Err(_) if mapping.ignores_unknown() => {
                mapping.remove_ids(request);
                return Ok(None);
            }
            Err(why) => {
                let rejection = Rejection::new(StatusCode::BAD_REQUEST, format!("{why}\n"));
                return Err(rejection.because(RejectionReason::Session));
            }
        };
        let found = self.ask(SessionRequest::Lookup(id)).await?;
        match found.filter(|session| session.owner == self.owner) {
            Some(session) if mapping.translate_request(request, &session) => {
                if let Some(upstream) = &session.upstream {
                    request.extensions.insert(upstream.clone());
                }
                Ok(Some(session))
            }
            _ if mapping.ignores_unknown() => {
                mapping.remove_ids(request);
                Ok(None)
            }
            _ => Err(
                Rejection::new(StatusCode::NOT_FOUND, "there is no such session\n")
                    .because(RejectionReason::Session),
            ),
        }
    }

    /// Handles the head of the upstream's response: ends a session that is over, binds the ids that the upstream gives, and puts
    /// the client's ids in their place.
    ///
    /// Rejects the request with 502 if the upstream's id is malformed, and with 503 if the store fails.
    pub(crate) async fn handle_response(
        &mut self,
        response: &mut response::Parts,
    ) -> Result<(), Rejection> {
        let rebound = response.extensions.remove::<Rebound>();
        let continues = rebound.as_ref().is_some_and(|rebound| rebound.continues);
        if let (Some(session), Some(rebound)) = (&mut self.session, rebound) {
            session.upstream_id = rebound.to.upstream_id;
            session.upstream = rebound.to.upstream;
        }
        if let Some(session) = &self.session
            && !continues
            && self.mapping.ends_session(&self.client, response)
        {
            let removed = SessionRequest::Remove(session.id.clone());
            // If the store fails, the session ends by the next 404 of the upstream or by its idle timeout.
            let _ = self.ask(removed).await;
            self.streams.remove_all_of(self.owner, self.id());
        }
        let upstream = response.extensions.get::<UpstreamKey>().cloned();
        let session = self.session.as_ref();
        self.upstream = upstream.or_else(|| session?.upstream.clone());
        let on_bound = response.extensions.remove::<OnBound>();
        self.session = self.bind(&mut response.headers).await?;
        if let (Some(session), Some(on_bound)) = (&self.session, on_bound) {
            on_bound.call(session);
        }
        Ok(())
    }

    /// Binds the ids in a response, and translates its head. Returns the session that the client names from now on.
    async fn bind(&self, headers: &mut HeaderMap) -> Result<Option<Session>, Rejection> {
        let mapping = &self.mapping;
        mapping.strip_response(headers);
        let ids = mapping.ids_in_response(headers).map_err(|why| {
            let why = format!("the upstream's session id cannot be passed on: {why}");
            tracing::warn!("{why}");
            Rejection::new(StatusCode::BAD_GATEWAY, why + "\n").because(RejectionReason::Session)
        })?;
        let mut known: Vec<Session> = self.session.clone().into_iter().collect();
        for id in ids {
            if !known.iter().any(|session| session.upstream_id == id) {
                known.push(self.bind_id(id).await?);
            }
        }
        mapping.translate_response(headers, &known);
        Ok(known.pop())
    }

    async fn bind_id(&self, id: UpstreamSessionId) -> Result<Session, Rejection> {
        let bound = self.binder.bind(id, self.owner, self.upstream.clone());
        bound.await.map_err(unavailable)
    }

    async fn ask(&self, request: SessionRequest) -> Result<Option<Session>, Rejection> {
        self.binder.ask(request).await.map_err(unavailable)
    }

    /// Keeps the session alive while the stream of the response is open.
    pub(crate) fn lease(&self) -> Option<SessionLease> {
        self.binder.lease(self.session.as_ref()?, false)
    }

    /// The stage that translates ids in events. `None` if the mapping names no place in events.
    pub(crate) fn into_stage(self) -> Option<SessionStage> {
        self.mapping.reads_events().then(|| {
            SessionStage::new(
                self.binder,
                self.mapping,
                self.client,
                self.owner,
                self.upstream,
                self.session,
            )
        })
    }
}

fn unavailable(why: &str) -> Rejection {
    tracing::warn!("sessions are not available: {why}");
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "sessions are not available\n",
    )
    .because(RejectionReason::SessionStore)
    .retry_later()
}

/// Notes, for a service that heals sessions, that a request resumes the response to a `POST`.
pub(crate) fn resumes_call(request: &mut request::Parts) {
    if let Some(link) = request.extensions.get_mut::<SessionLink>() {
        link.resumes_call = true;
    }
}
