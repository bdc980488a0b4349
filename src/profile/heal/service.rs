//! The service: one request and its response, and the healing of its session.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{Method, Request, Response, request};
use http_body::Body;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_service::Service;

use super::{
    body::{Budget, HeldBody, ReadBody, read},
    initialize::{self, Initialize, SESSION, session_id, set_session},
    message,
    sessions::{Claim, Healing, Key, Replacement, Sessions, Ticket},
    settings::Settings,
};
use crate::headers::incremental::is_incremental;
use crate::session::{
    NewSession, OnBound, OnHealed, Rebound, Session, SessionBinder, SessionLink, SessionRequest,
};

/// The service of a [`HealLayer`](super::HealLayer).
pub struct Heal<S, ReqB: Body> {
    inner: S,
    settings: Arc<Settings<ReqB>>,
    sessions: Arc<Sessions>,
    budget: Arc<Budget>,
}

impl<S, ReqB: Body> Heal<S, ReqB> {
    pub(super) fn new(
        inner: S,
        settings: Arc<Settings<ReqB>>,
        sessions: Arc<Sessions>,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            inner,
            settings,
            sessions,
            budget,
        }
    }

    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, ReqB, B> Service<Request<ReqB>> for Heal<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqB: Body<Data = Bytes, Error: Send> + Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    /// Dropping the future cancels the request. A healing that it has started continues, up to its time limit.
    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let link = request.extensions().get::<SessionLink>();
        let is_post = request.method() == Method::POST;
        match link.map(|link| (&link.session, link)) {
            Some((Some(session), link)) if self.can_heal(session, &request) => {
                let (session, link) = (session.clone(), link.clone());
                let call = SessionCall {
                    heal: self.release_permit(),
                    key: Key::from(&session),
                    session,
                    link,
                };
                Box::pin(call.run(request))
            }
            Some((None, _)) if is_post => Box::pin(self.release_permit().open_session(request)),
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

impl<S, ReqB: Body<Data = Bytes>> Heal<S, ReqB> {
    fn can_heal(&self, session: &Session, request: &Request<ReqB>) -> bool {
        request.headers().contains_key(SESSION) && self.sessions.enter(session).is_some()
    }

    /// Drops the ready service and its permits, because the call comes after the request body. Returns a clone that is not ready.
    fn release_permit(&mut self) -> Self
    where
        S: Clone,
    {
        self.inner = self.inner.clone();
        self.clone()
    }

    /// Sends a request without a session. If it opens one by `initialize`, the request is stored.
    async fn open_session<B>(self, request: Request<ReqB>) -> Result<Response<B>, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<B>>,
    {
        let settings = &self.settings;
        let (parts, body) = request.into_parts();
        // The sender asks that no intermediary holds the body (RFC 10036), so it is neither stored nor repeated.
        if is_incremental(&parts.headers) {
            return self.inner.oneshot(Request::from_parts(parts, body)).await;
        }
        let (body, held) = match read(body, settings.max_body_bytes, &self.budget).await {
            ReadBody::Part(body) => (settings.body(body), None),
            ReadBody::Whole(held) => {
                let is_initialize = message::is_initialize(&held.bytes);
                let body = settings.body(held.bytes.clone());
                (body, is_initialize.then_some(held))
            }
        };
        let initialize = held
            .as_ref()
            .map(|held| Arc::new(Initialize::new(&parts, held.bytes.clone())));
        let request = Request::from_parts(parts, body);
        let mut response = self.inner.oneshot(request).await?;
        if let Some(initialize) = initialize
            && response.status().is_success()
            && let Some(id) = session_id(response.headers())
        {
            let sessions = self.sessions;
            let on_bound = OnBound::new(move |session| {
                if session.upstream_id == id {
                    sessions.insert(session, Arc::clone(&initialize));
                }
            });
            response.extensions_mut().insert(on_bound);
        }
        Ok(response)
    }
}

/// A request of a session that can be healed.
struct SessionCall<S, ReqB: Body> {
    heal: Heal<S, ReqB>,
    /// The session as the store returned it.
    session: Session,
    key: Key,
    link: SessionLink,
}

impl<S, ReqB, B> SessionCall<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqB: Body<Data = Bytes, Error: Send> + Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    async fn run(mut self, request: Request<ReqB>) -> Result<Response<B>, S::Error> {
        let (mut parts, body) = request.into_parts();
        let (body, held) = self.hold(&parts, body).await;
        let ticket = self.ticket(&parts.method).await;
        let current = ticket.as_ref().and_then(|ticket| ticket.current.clone());
        if let Some(current) = &current {
            set_session(&mut parts, &current.upstream_id, current.upstream.as_ref());
        }
        let head = parts.clone();
        let service = self.heal.inner.clone();
        let response = service.oneshot(Request::from_parts(parts, body)).await?;
        let (mut parts, body) = response.into_parts();
        if let Some(current) = current.clone() {
            let (to, continues) = (current, false);
            parts.extensions.insert(Rebound { to, continues });
        }
        let Some(ticket) = ticket else {
            return Ok(Response::from_parts(parts, body));
        };
        let is_lost = self.heal.settings.is_lost(&parts);
        let may_heal = head.method == Method::GET || head.method == Method::POST;
        if !is_lost || !may_heal {
            if head.method == Method::DELETE {
                if is_lost || parts.status.is_success() {
                    self.heal.sessions.remove(&self.key);
                }
            } else if !is_lost {
                self.heal.sessions.record_answer(&self.key);
            }
            return Ok(Response::from_parts(parts, body));
        }
        let used = current.unwrap_or_else(|| as_bound(&self.session));
        let Some(healed) = self.healed(&ticket, &head, used).await else {
            if head.method != Method::GET {
                self.heal.sessions.remove(&self.key);
            }
            return Ok(Response::from_parts(parts, body));
        };
        match held {
            None => {
                let (to, continues) = (healed.to, true);
                parts.extensions.insert(Rebound { to, continues });
                parts.extensions.insert(healed.healed);
                Ok(Response::from_parts(parts, body))
            }
            Some(held) => {
                drop(body);
                self.repeat(head, held, healed).await
            }
        }
    }

    /// Reads the body of a `POST`. Returns the body to send, and the body to repeat if the request may be repeated.
    async fn hold(&mut self, parts: &request::Parts, body: ReqB) -> (ReqB, Option<HeldBody>) {
        let Heal {
            settings, budget, ..
        } = &self.heal;
        if parts.method == Method::GET && body.is_end_stream() {
            let held = HeldBody::empty(budget);
            let is_held = !self.link.resumes_call && (settings.repeat_if)(parts, b"");
            return (body, is_held.then_some(held));
        }
        if parts.method != Method::POST || is_incremental(&parts.headers) {
            return (body, None);
        }
        match read(body, settings.max_body_bytes, budget).await {
            ReadBody::Part(body) => (settings.body(body), None),
            ReadBody::Whole(held) => {
                if message::subscribes(&held.bytes) {
                    self.heal.sessions.record_subscription(&self.key);
                }
                let is_held = (settings.repeat_if)(parts, &held.bytes);
                let body = settings.body(held.bytes.clone());
                (body, is_held.then_some(held))
            }
        }
    }

    /// The state of the session, after a healing that is running. A `DELETE` does not wait.
    async fn ticket(&mut self, method: &Method) -> Option<Ticket> {
        let mut ticket = self.heal.sessions.enter(&self.session)?;
        match ticket.healing.take() {
            Some(healing) if *method != Method::DELETE => {
                healing.result().await;
                self.heal.sessions.enter(&self.session)
            }
            _ => Some(ticket),
        }
    }

    /// Heals the session, or waits until another request has. `None` if it is not healed.
    async fn healed(
        &mut self,
        ticket: &Ticket,
        head: &request::Parts,
        used: NewSession,
    ) -> Option<Replacement> {
        let is_get = head.method == Method::GET;
        match self.heal.sessions.claim(&self.key, ticket, is_get) {
            Claim::No => None,
            Claim::Healed(healed) => Some(healed),
            Claim::Wait(healing) => healing.result().await,
            Claim::Start(initialize, healing) => {
                let waiting = healing.waiting();
                let task = Task {
                    settings: Arc::clone(&self.heal.settings),
                    service: self.heal.inner.clone(),
                    session: self.session.clone(),
                    binder: self.link.binder.clone(),
                    on_healed: self.link.on_healed.clone(),
                    head: head.clone(),
                    used,
                };
                tokio::spawn(task.run(initialize, healing));
                waiting.result().await
            }
        }
    }

    /// Sends the request again, with the new upstream session.
    async fn repeat(
        self,
        mut head: request::Parts,
        held: HeldBody,
        healed: Replacement,
    ) -> Result<Response<B>, S::Error> {
        let is_get = head.method == Method::GET;
        let to = healed.to;
        set_session(&mut head, &to.upstream_id, to.upstream.as_ref());
        let body = self.heal.settings.body(held.bytes.clone());
        let response = self
            .heal
            .inner
            .clone()
            .oneshot(Request::from_parts(head, body));
        let (mut parts, body) = response.await?.into_parts();
        match self.heal.settings.is_lost(&parts) {
            false => self.heal.sessions.record_answer(&self.key),
            true if is_get => self.heal.sessions.record_no_get(&self.key),
            true => self.heal.sessions.remove(&self.key),
        }
        let continues = false;
        parts.extensions.insert(Rebound { to, continues });
        parts.extensions.insert(healed.healed);
        Ok(Response::from_parts(parts, body))
    }
}

/// The healing of one session.
struct Task<S, ReqB: Body> {
    settings: Arc<Settings<ReqB>>,
    service: S,
    session: Session,
    binder: SessionBinder,
    on_healed: Option<OnHealed>,
    /// The request that got 404.
    head: request::Parts,
    /// The upstream session of that request.
    used: NewSession,
}

impl<S, ReqB, B> Task<S, ReqB>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone,
    ReqB: Body<Data = Bytes>,
    B: Body,
    B::Data: Buf,
{
    async fn run(mut self, initialize: Arc<Initialize>, healing: Healing) {
        let replaced = timeout(self.settings.time_limit, self.replace(&initialize)).await;
        match replaced.unwrap_or(Err("the time limit has passed")) {
            Ok(to) => {
                let healed = healing.succeed(self.used.upstream_id, to);
                tracing::info!(target: "tower_sse_proxy", "healed an MCP session");
                if let Some(observers) = self.on_healed {
                    observers.call(&healed);
                }
                let call = || (self.settings.on_healed)(&healed);
                if catch_unwind(AssertUnwindSafe(call)).is_err() {
                    tracing::warn!(target: "tower_sse_proxy", "the function for healed sessions panicked");
                }
            }
            Err(cause) => {
                tracing::warn!(target: "tower_sse_proxy", cause, "cannot heal an MCP session");
            }
        }
    }

    /// Opens a new upstream session, and binds it to the client's session id.
    ///
    /// # Errors
    /// A text for logs. It contains nothing of the session.
    async fn replace(&mut self, initialize: &Initialize) -> Result<NewSession, &'static str> {
        const ENDED: &str = "the session has ended";
        let Self {
            settings,
            service,
            session,
            binder,
            head,
            used,
            ..
        } = self;
        let lookup = || binder.ask(SessionRequest::Lookup(session.id.clone()));
        let found = lookup().await?.ok_or(ENDED)?;
        if found.owner != session.owner {
            return Err(ENDED);
        }
        if ![&session.upstream_id, &used.upstream_id].contains(&&found.upstream_id) {
            // Another node has healed it.
            return Ok(as_bound(&found));
        }
        let opened = initialize::open(settings, service.clone(), initialize, head).await?;
        opened.initialized(settings, service.clone(), head).await?;
        let to = opened.bound_after(used);
        let rebind = SessionRequest::Rebind(session.id.clone(), to.clone());
        if matches!(binder.ask(rebind).await, Ok(Some(_))) {
            return Ok(to);
        }
        // If the store cannot change a session, this node translates the id that the store returns.
        if matches!(lookup().await, Ok(Some(_))) {
            return Ok(to);
        }
        opened.delete(settings, service.clone(), head).await;
        Err(ENDED)
    }
}

fn as_bound(session: &Session) -> NewSession {
    NewSession::new(session.upstream_id.clone(), session.owner)
        .with_upstream(session.upstream.clone())
}

impl<S: Clone, ReqB: Body> Clone for Heal<S, ReqB> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: Arc::clone(&self.settings),
            sessions: Arc::clone(&self.sessions),
            budget: Arc::clone(&self.budget),
        }
    }
}

impl<S, ReqB: Body> fmt::Debug for Heal<S, ReqB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heal").finish_non_exhaustive()
    }
}
