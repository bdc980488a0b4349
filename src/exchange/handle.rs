//! A request on its way: to the session it belongs to, to the stream it comes back to, or to the service.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body::Body;
use tokio::sync::oneshot;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::{
    exchange::{
        authorize::authorize,
        record::{Asked, Rejoins},
        respond::Asking,
        resume::{Rejoin, Resumed, Resumption, comes_for_a_stream, names_an_event},
        session::{InSession, Mapping},
    },
    layer::Config,
    log::StartAt,
    policy::Policy,
    reconnect::{ReconnectPolicy, RetryRequest},
    rejection::Rejection,
    replay::{
        Replay,
        coalesce::{LeaderGuard, Role},
        recorded_stream::{StreamKey, StreamOwner},
    },
    session::{OpenStream, Owner, Session},
};

/// What came of a request.
pub(crate) enum Outcome<R> {
    /// The service's answer, and what is left to do for its stream.
    Answer(R, Behind<R>),
    /// What is kept of a stream.
    Kept(Box<Rejoin>),
    /// The layer's own answer.
    Refused(Rejection),
}

/// What the stream of an answer needs to know of its request.
pub(crate) struct Behind<R> {
    pub(crate) in_session: Option<Box<InSession>>,
    pub(crate) asked: Option<Box<Asked>>,
    pub(crate) repeat: Option<Box<RetryRequest<R>>>,
}

/// A request, and what applies to it.
pub(crate) struct Call<C> {
    pub(crate) config: Arc<Config>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) reconnect: C,
}

/// A request on its way to the service, and what is known of it by then.
struct Forward<C, ReqB> {
    call: Call<C>,
    /// As it came.
    client: request::Parts,
    /// As the service gets it.
    request: Request<ReqB>,
    owner: Owner,
    mapping: Option<Mapping>,
    session: Option<Session>,
    /// Keeps a store from evicting the session meanwhile.
    in_use: Option<OpenStream>,
    /// If its stream is to be kept.
    target: Option<StreamKey>,
    rejoins: Option<Rejoins>,
    ticket: Option<LeaderGuard>,
}

impl<C> Call<C> {
    /// Answers a request, by the service if need be.
    ///
    /// The service is one that nobody waits with: a store that takes its time takes nobody's permit with it.
    pub(crate) async fn run<S, ReqB, B>(
        self,
        service: S,
        request: Request<ReqB>,
    ) -> Result<Outcome<Response<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB> + Send + 'static,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        ReqB: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let client = parts.clone();
        let sessions = self.policy.sessions.as_ref();
        let owner = self
            .config
            .owner(&client, sessions.map(|sessions| &**sessions));
        let mapping = sessions.map(|sessions| Mapping {
            config: Arc::clone(&self.config),
            sessions: Arc::clone(sessions),
        });
        let session = match &mapping {
            Some(mapping) => match mapping.resolve(&mut parts, owner).await {
                Ok(session) => session,
                Err(refusal) => return Ok(Outcome::Refused(refusal)),
            },
            None => None,
        };
        let (mut target, mut rejoins, mut share) = (None, None, None);
        if let Some(replay) = &self.policy.replay {
            let session = session.as_ref().map(|session| session.id.clone());
            let whose = StreamOwner { owner, session };
            let at = StreamKey::of(&client, replay);
            let resumption = Resumption {
                logs: self.config.logs(),
                closed: self.config.closed(),
                replay,
                whose: &whose,
                target: &at,
            };
            match resumption.answer(&client, &mut parts).await {
                Resumed::Not => {}
                Resumed::Kept(rejoin) => return Ok(Outcome::Kept(rejoin)),
                Resumed::AtTheUpstream(rejoin) => rejoins = Some(rejoin),
                Resumed::Refused(refusal) => return Ok(Outcome::Refused(refusal)),
            }
            // Others have no use for what begins in the middle, nor who has an event of the upstream's for what they are sent.
            let rides = rejoins.is_none() && !names_an_event(&parts, replay);
            if rides && matches!(at, StreamKey::Shared(..)) && comes_for_a_stream(&client.method) {
                share = Some(((whose, at.clone()), Arc::clone(replay)));
            }
            target = Some(at);
        }
        let in_use = session.as_ref().and_then(Session::in_use);
        let forward = Forward {
            call: self,
            client,
            request: Request::from_parts(parts, body),
            owner,
            mapping,
            session,
            in_use,
            target,
            rejoins,
            ticket: None,
        };
        match share {
            Some((key, replay)) => forward.share(service, key, &replay).await,
            None => forward.run(service).await,
        }
    }
}

impl<C, ReqB> Forward<C, ReqB> {
    /// Asks the service.
    async fn run<S, B>(self, service: S) -> Result<Outcome<Response<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB>,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: 'static,
    {
        let Self {
            call,
            client,
            owner,
            mapping,
            mut session,
            in_use,
            target,
            rejoins,
            ticket,
            request,
        } = self;
        let (parts, body) = request.into_parts();
        let repeat = call.reconnect.again(&service, &parts);
        let request = Request::from_parts(parts, body);
        let response = service.oneshot(request).await;
        let status = response.as_ref().ok().map(Response::status);
        let rejoins = match rejoins {
            Some(rejoins) if rejoins.is_spared::<B>(status) => {
                return Ok(Outcome::Kept(Box::new(rejoins.for_now())));
            }
            rejoins => rejoins,
        };
        let response = response?;
        let (mut parts, body) = response.into_parts();
        let mut upstream = None;
        if let Some(mapping) = &mapping {
            let translated = mapping.answer(&client, &mut parts, session, owner).await;
            (session, upstream) = match translated {
                Ok(translated) => translated,
                Err(refusal) => return Ok(Outcome::Refused(refusal)),
            };
        }
        let asked = call.policy.replay.as_ref().zip(target);
        let asked = asked.map(|(replay, target)| {
            let session = session.as_ref().map(|session| session.id.clone());
            let whose = StreamOwner { owner, session };
            Box::new(Asked {
                rejoins,
                ticket,
                ..Asked::new(&call.config, replay, whose, target)
            })
        });
        let in_session = mapping.map(|mapping| {
            Box::new(InSession {
                mapping,
                client,
                owner,
                upstream,
                session,
                _in_use: in_use,
            })
        });
        let behind = Behind {
            in_session,
            asked,
            repeat: repeat.map(|asks| Box::new(RetryRequest::new(asks))),
        };
        Ok(Outcome::Answer(Response::from_parts(parts, body), behind))
    }

    /// Rides on a stream with others, or asks the service for them all.
    ///
    /// That is a task of its own: who asked first may leave, and the others go on.
    async fn share<S, B>(
        mut self,
        service: S,
        key: (StreamOwner, StreamKey),
        replay: &Replay,
    ) -> Result<Outcome<Response<B>>, S::Error>
    where
        C: ReconnectPolicy<S, ReqB> + Send + 'static,
        S: Service<Request<ReqB>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        ReqB: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let join = replay
            .share
            .as_ref()
            .map_or(StartAt::Live, |share| share.join);
        let shared = Arc::clone(self.call.config.shared());
        let mut waits = 0;
        let mut authorized = replay.authorize.is_none();
        let (ticket, interest, nobody) = loop {
            match shared.assign_role(key.clone(), join, authorized) {
                Role::Unauthorized(interest) => {
                    drop(interest);
                    if let Err(refusal) = authorize(replay, &self.client).await {
                        return Ok(Outcome::Refused(refusal));
                    }
                    authorized = true;
                }
                Role::Join(rejoin) => return Ok(Outcome::Kept(Box::new(rejoin))),
                Role::Follow(wait, _interest) => match wait.await {
                    Ok(rejoin) => return Ok(Outcome::Kept(Box::new(rejoin))),
                    // The upstream was not there: those who have waited try it together once more.
                    Err(_) if waits == 0 => waits += 1,
                    // It was no stream, or nobody else's: there is nothing to share.
                    Err(_) => return self.run(service).await,
                },
                Role::Lead(ticket, interest, nobody) => break (ticket, interest, nobody),
            }
        };
        self.ticket = Some(ticket);
        let (policy, client) = (Arc::clone(&self.call.policy), self.client.clone());
        let (tell, told) = oneshot::channel();
        (replay.executor)(Box::pin(async move {
            let kept = async {
                let outcome = self.run(service).await?;
                let Outcome::Answer(response, behind) = outcome else {
                    return Ok(outcome);
                };
                let asking = Asking {
                    policy: &policy,
                    request: Some(&client),
                    head_only: false,
                };
                Ok(asking.keep(response, behind))
            };
            tokio::select! {
                biased;
                kept = kept => drop(tell.send(kept)),
                () = nobody.wait() => {}
            }
        }));
        let outcome = told.await;
        drop(interest);
        outcome.unwrap_or_else(|_| {
            // The task was dropped: its runtime ends, or whoever asked the service panicked.
            let text = "the upstream was not asked\n";
            Ok(Outcome::Refused(Rejection::new(
                StatusCode::BAD_GATEWAY,
                text,
            )))
        })
    }
}
