//! A request that may belong to a session: its id is found and translated, and what the answer gives is bound.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request};
use http_body::Body;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::{
    layer::Config,
    refusal::Refusal,
    session::{
        Lease, NewSession, Owner, Session, SessionRequest, Sessions, UpstreamId, UpstreamKey,
    },
    upstream::Translation,
};

/// What came of a request.
pub(crate) enum Mapped<R> {
    /// The answer, with its ids translated, and what is left to do for its stream.
    Answer(R, Box<InSession>),
    /// The layer's own answer.
    Refused(Refusal),
}

/// What the stream of an answer needs to know of sessions.
pub(crate) struct InSession {
    mapping: Mapping,
    client: request::Parts,
    owner: Owner,
    upstream: Option<UpstreamKey>,
    session: Option<Session>,
}

impl InSession {
    /// Keeps the session alive while the stream is.
    pub(crate) fn lease(&self) -> Option<Lease> {
        let Mapping { config, sessions } = &self.mapping;
        let session = self.session.as_ref()?;
        let limit = sessions.store_limit();
        config.keeper().lease(config.store(), session, false, limit)
    }

    /// The stage that translates ids in events, if a rule asks for it.
    pub(crate) fn translation(self) -> Option<Translation> {
        let Mapping { config, sessions } = self.mapping;
        if !sessions.reads_events() {
            return None;
        }
        let (client, owner, upstream) = (self.client, self.owner, self.upstream);
        let session = self.session;
        Some(Translation::new(
            config, sessions, client, owner, upstream, session,
        ))
    }
}

/// A request on its way through the mapping.
pub(crate) struct Mapping {
    pub(crate) config: Arc<Config>,
    pub(crate) sessions: Arc<Sessions>,
}

impl Mapping {
    /// Sends a request on with the upstream's id in the place of the client's.
    ///
    /// The service is one that nobody waits with: a store that takes its time takes nobody's permit with it.
    pub(crate) async fn run<S, ReqB, B>(
        self,
        service: S,
        request: Request<ReqB>,
    ) -> Result<Mapped<Response<B>>, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<B>>,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let client = parts.clone();
        let owner = self.config.owner(&client, &self.sessions);
        let session = match self.resolve(&mut parts, owner).await {
            Ok(session) => session,
            Err(refusal) => return Ok(Mapped::Refused(refusal)),
        };
        let response = service.oneshot(Request::from_parts(parts, body)).await?;
        let (mut parts, body) = response.into_parts();
        if let Some(session) = &session
            && self.sessions.is_over(&client, &parts)
        {
            let gone = SessionRequest::Remove(session.id.clone());
            // If the store fails it will learn of it by the next 404, or by the time.
            let _ = self.ask(gone).await;
        }
        let upstream = parts.extensions.get::<UpstreamKey>().cloned();
        let upstream = upstream.or_else(|| session.as_ref()?.upstream.clone());
        let session = match self
            .bind(&mut parts.headers, session, owner, &upstream)
            .await
        {
            Ok(session) => session,
            Err(refusal) => return Ok(Mapped::Refused(refusal)),
        };
        let in_session = Box::new(InSession {
            mapping: self,
            client,
            owner,
            upstream,
            session,
        });
        Ok(Mapped::Answer(
            Response::from_parts(parts, body),
            in_session,
        ))
    }

    /// The session of a request, which is translated.
    async fn resolve(
        &self,
        request: &mut request::Parts,
        owner: Owner,
    ) -> Result<Option<Session>, Refusal> {
        let sessions = &self.sessions;
        sessions.hide(request);
        let id = match sessions.id_of(request) {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(None),
            Err(_) if sessions.forgets_unknown() => {
                sessions.forget(request);
                return Ok(None);
            }
            Err(why) => return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{why}\n"))),
        };
        let session = self.ask(SessionRequest::Lookup(id)).await?;
        let session = session.filter(|session| session.owner == owner);
        match session {
            Some(session) if sessions.translate(request, &session) => {
                if let Some(upstream) = &session.upstream {
                    request.extensions.insert(upstream.clone());
                }
                Ok(Some(session))
            }
            _ if sessions.forgets_unknown() => {
                sessions.forget(request);
                Ok(None)
            }
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "there is no such session\n",
            )),
        }
    }

    /// Translates the head of an answer. Returns the session that the client goes by from now on.
    async fn bind(
        &self,
        headers: &mut HeaderMap,
        session: Option<Session>,
        owner: Owner,
        upstream: &Option<UpstreamKey>,
    ) -> Result<Option<Session>, Refusal> {
        let sessions = &self.sessions;
        sessions.hide_in_answer(headers);
        let ids = sessions.ids_in_answer(headers).map_err(|why| {
            let why = format!("the upstream's session id cannot be passed on: {why}");
            tracing::warn!("{why}");
            Refusal::new(StatusCode::BAD_GATEWAY, why + "\n")
        })?;
        let mut known: Vec<Session> = session.into_iter().collect();
        for id in ids {
            if !known.iter().any(|session| session.upstream_id == id) {
                known.push(self.bound(id, upstream.clone(), owner).await?);
            }
        }
        sessions.translate_answer(headers, &known);
        Ok(known.pop())
    }

    async fn bound(
        &self,
        id: UpstreamId,
        upstream: Option<UpstreamKey>,
        owner: Owner,
    ) -> Result<Session, Refusal> {
        let new = NewSession::new(id, owner).on(upstream);
        let limit = self.sessions.store_limit();
        let bound = self.config.store().bind(new, limit).await;
        bound.map_err(unavailable)
    }

    async fn ask(&self, request: SessionRequest) -> Result<Option<Session>, Refusal> {
        let answer = self
            .config
            .store()
            .ask(request, self.sessions.store_limit());
        answer.await.map_err(unavailable)
    }
}

fn unavailable(why: &str) -> Refusal {
    tracing::warn!("sessions are not available: {why}");
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "sessions are not available\n",
    )
}
