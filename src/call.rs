//! A request on its way: to the session it belongs to, to the stream it comes back to, or to the service.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use crate::{
    keep::Asked,
    layer::Config,
    mapping::{InSession, Mapping},
    policy::Policy,
    recording::{Target, Whose},
    refusal::Refusal,
    resume::{Rejoin, Resumed, Resumption},
};

/// What came of a request.
pub(crate) enum Outcome<R> {
    /// The service's answer, and what is left to do for its stream.
    Answer(R, Behind),
    /// What is kept of a stream.
    Kept(Box<Rejoin>),
    /// The layer's own answer.
    Refused(Refusal),
}

/// What the stream of an answer needs to know of its request.
#[derive(Default)]
pub(crate) struct Behind {
    pub(crate) in_session: Option<Box<InSession>>,
    pub(crate) asked: Option<Box<Asked>>,
}

/// A request, and what applies to it.
pub(crate) struct Call {
    pub(crate) config: Arc<Config>,
    pub(crate) policy: Arc<Policy>,
}

impl Call {
    /// Answers a request, by the service if need be.
    ///
    /// The service is one that nobody waits with: a store that takes its time takes nobody's permit with it.
    pub(crate) async fn run<S, ReqB, B>(
        self,
        service: S,
        request: Request<ReqB>,
    ) -> Result<Outcome<Response<B>>, S::Error>
    where
        S: Service<Request<ReqB>, Response = Response<B>>,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let Self { config, policy } = self;
        let (mut parts, body) = request.into_parts();
        let client = parts.clone();
        let sessions = policy.sessions.as_ref();
        let owner = config.owner(&client, sessions.map(|sessions| &**sessions));
        let mapping = sessions.map(|sessions| Mapping {
            config: Arc::clone(&config),
            sessions: Arc::clone(sessions),
        });
        let session = match &mapping {
            Some(mapping) => match mapping.resolve(&mut parts, owner).await {
                Ok(session) => session,
                Err(refusal) => return Ok(Outcome::Refused(refusal)),
            },
            None => None,
        };
        let mut rejoins = None;
        if let Some(replay) = &policy.replay {
            let session = session.as_ref().map(|session| session.id.clone());
            let resumption = Resumption {
                logs: config.logs(),
                replay,
                whose: Whose { owner, session },
            };
            match resumption.answer(&client, &mut parts).await {
                Resumed::Not => {}
                Resumed::Kept(rejoin) => return Ok(Outcome::Kept(rejoin)),
                Resumed::AtTheUpstream(rejoin) => rejoins = Some(rejoin),
                Resumed::Refused(refusal) => return Ok(Outcome::Refused(refusal)),
            }
        }
        let response = service.oneshot(Request::from_parts(parts, body)).await?;
        let (mut parts, body) = response.into_parts();
        let mut session = session;
        let mut upstream = None;
        if let Some(mapping) = &mapping {
            let translated = mapping.answer(&client, &mut parts, session, owner).await;
            (session, upstream) = match translated {
                Ok(translated) => translated,
                Err(refusal) => return Ok(Outcome::Refused(refusal)),
            };
        }
        let asked = policy.replay.as_ref().map(|replay| {
            let session = session.as_ref().map(|session| session.id.clone());
            Box::new(Asked {
                whose: Whose { owner, session },
                target: Target::of(&client, replay),
                config: Arc::clone(&config),
                replay: Arc::clone(replay),
                rejoins,
            })
        });
        let in_session = mapping.map(|mapping| {
            Box::new(InSession {
                mapping,
                client,
                owner,
                upstream,
                session,
            })
        });
        let behind = Behind { in_session, asked };
        Ok(Outcome::Answer(Response::from_parts(parts, body), behind))
    }
}
