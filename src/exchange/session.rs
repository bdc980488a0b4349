//! A request that may belong to a session: its id is found and translated, and what the answer gives is bound.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, request, response};

use crate::{
    layer::Config,
    rejection::Rejection,
    replay::recorded_stream::StreamOwner,
    session::{
        NewSession, OpenStream, Owner, Session, SessionLease, SessionMapping, SessionRequest,
        UpstreamKey, UpstreamSessionId,
    },
    upstream::SessionStage,
};

/// What the stream of an answer needs to know of sessions.
pub(crate) struct InSession {
    pub(crate) mapping: Mapping,
    /// The client's request.
    pub(crate) client: request::Parts,
    pub(crate) owner: Owner,
    pub(crate) upstream: Option<UpstreamKey>,
    pub(crate) session: Option<Session>,
    /// The request's hold on its session, until the stream has one.
    pub(crate) _in_use: Option<OpenStream>,
}

impl InSession {
    /// Keeps the session alive while the stream is.
    pub(crate) fn lease(&self) -> Option<SessionLease> {
        let Mapping { config, sessions } = &self.mapping;
        let session = self.session.as_ref()?;
        let limit = sessions.store_limit();
        config.keeper().lease(config.store(), session, false, limit)
    }

    /// The stage that translates ids in events, if a rule asks for it.
    pub(crate) fn translation(self) -> Option<SessionStage> {
        let Mapping { config, sessions } = self.mapping;
        if !sessions.reads_events() {
            return None;
        }
        let (client, owner, upstream) = (self.client, self.owner, self.upstream);
        let session = self.session;
        Some(SessionStage::new(
            config, sessions, client, owner, upstream, session,
        ))
    }
}

/// A request on its way through the mapping.
pub(crate) struct Mapping {
    pub(crate) config: Arc<Config>,
    pub(crate) sessions: Arc<SessionMapping>,
}

impl Mapping {
    /// Translates an answer of the service. Returns the session that the client goes by from now on, and the upstream it is on.
    pub(crate) async fn answer(
        &self,
        client: &request::Parts,
        answer: &mut response::Parts,
        session: Option<Session>,
        owner: Owner,
    ) -> Result<(Option<Session>, Option<UpstreamKey>), Rejection> {
        if let Some(session) = &session
            && self.sessions.is_over(client, answer)
        {
            let gone = SessionRequest::Remove(session.id.clone());
            // If the store fails it will learn of it by the next 404, or by the time.
            let _ = self.ask(gone).await;
            let session = Some(session.id.clone());
            self.config
                .logs()
                .remove_all_of(&StreamOwner { owner, session });
        }
        let upstream = answer.extensions.get::<UpstreamKey>().cloned();
        let upstream = upstream.or_else(|| session.as_ref()?.upstream.clone());
        let session = self
            .bind(&mut answer.headers, session, owner, &upstream)
            .await?;
        Ok((session, upstream))
    }

    /// The session of a request, which is translated.
    pub(crate) async fn resolve(
        &self,
        request: &mut request::Parts,
        owner: Owner,
    ) -> Result<Option<Session>, Rejection> {
        let sessions = &self.sessions;
        sessions.hide(request);
        let id = match sessions.id_of(request) {
            Ok(Some(id)) => id,
            Ok(None) => return Ok(None),
            Err(_) if sessions.forgets_unknown() => {
                sessions.forget(request);
                return Ok(None);
            }
            Err(why) => return Err(Rejection::new(StatusCode::BAD_REQUEST, format!("{why}\n"))),
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
            _ => Err(Rejection::new(
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
    ) -> Result<Option<Session>, Rejection> {
        let sessions = &self.sessions;
        sessions.hide_in_answer(headers);
        let ids = sessions.ids_in_answer(headers).map_err(|why| {
            let why = format!("the upstream's session id cannot be passed on: {why}");
            tracing::warn!("{why}");
            Rejection::new(StatusCode::BAD_GATEWAY, why + "\n")
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
        id: UpstreamSessionId,
        upstream: Option<UpstreamKey>,
        owner: Owner,
    ) -> Result<Session, Rejection> {
        let new = NewSession::new(id, owner).with_upstream(upstream);
        let limit = self.sessions.store_limit();
        let bound = self.config.store().bind(new, limit).await;
        bound.map_err(unavailable)
    }

    async fn ask(&self, request: SessionRequest) -> Result<Option<Session>, Rejection> {
        let answer = self
            .config
            .store()
            .ask(request, self.sessions.store_limit());
        answer.await.map_err(unavailable)
    }
}

fn unavailable(why: &str) -> Rejection {
    tracing::warn!("sessions are not available: {why}");
    Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "sessions are not available\n",
    )
    .retry_later()
}
