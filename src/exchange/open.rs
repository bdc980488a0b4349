//! Opens each event stream that the layer reads.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, response};
use http_body::Body;
use tower::BoxError;

use crate::{
    exchange::{
        context::RequestContext,
        inspectable::{check_inspectable, reject_panicked},
        session::SessionContext,
    },
    headers::{content_encoding::ContentCoding, event_stream_head},
    intercept::{Chain, StreamHead},
    live::StreamWatchdog,
    observe::{LiveStream, StreamOutcome, StreamReport},
    rejection::Rejection,
    session::{SessionId, SessionLease},
    stream_id::StreamId,
    upstream::{
        BodyRules, ContentCheck, Pipeline, ProgressStage, Pull, body::DecodedBody,
        stream_watch::StreamWatch,
    },
};

impl RequestContext {
    /// Opens an event stream: its interceptors, the session stage, and the report of its end. Every stream that the layer reads is
    /// opened here. Also rewrites the head for a body that the layer writes.
    ///
    /// `recorded` is the id of a stream that is recorded. `progress` is for streams that are recorded or reconnected. Rejects the request
    /// if an interceptor panics when it is opened.
    pub(crate) fn open_stream<B>(
        &self,
        parts: &mut response::Parts,
        body: DecodedBody<B>,
        session: Option<Box<SessionContext>>,
        recorded: Option<StreamId>,
        progress: Option<ProgressStage>,
    ) -> Result<(Pull<B>, Option<SessionLease>), Rejection>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let policy = &self.policy;
        let chain = match &self.client {
            Some(client) => Chain::open(&policy.intercepts, &StreamHead::new(client, parts)),
            None => Ok(Chain::default()),
        };
        let Ok(mut chain) = chain else {
            if let Some(observed) = &self.observed {
                let status = Some(StatusCode::BAD_GATEWAY);
                observed.report(StreamOutcome::InterceptorFailed, status);
            }
            return Err(reject_panicked(policy.route.clone()));
        };
        let session_id = session.as_deref().and_then(SessionContext::id);
        let lease = session.as_deref().and_then(SessionContext::lease);
        if let Some(stage) = session.and_then(|session| session.into_stage()) {
            chain.put_first(stage);
        }
        if let Some(progress) = progress {
            chain.put_first(progress);
        }
        event_stream_head::rewrite_headers(&mut parts.headers);
        let live = self.open_live(parts, session_id, recorded);
        let watch = self.stream_watch(live.as_ref());
        let report = StreamReport::new(policy.route.clone(), live);
        let pipeline = Pipeline::new(chain, policy.strip_comments, report).with_watch(watch);
        let pull =
            Pull::new(body, policy.decoder(), pipeline).reject_foreign_encodings(policy.inspects());
        Ok((pull, lease))
    }

    /// Adds a stream that opens now to the list of open streams, if it is observed, and puts its id into the response extensions.
    ///
    /// Every event stream is listed here, also one that the layer cannot read.
    pub(crate) fn open_live(
        &self,
        parts: &mut response::Parts,
        session: Option<SessionId>,
        recorded: Option<StreamId>,
    ) -> Option<Arc<LiveStream>> {
        let observed = self.observed.as_ref()?;
        let id = recorded.unwrap_or_else(StreamId::random);
        parts.extensions.insert(id);
        observed.handle_opened();
        let live = self.state.live.open(
            id,
            Arc::clone(&observed.origin),
            session,
            parts.status,
            recorded.is_some(),
            &observed.observers,
        );
        if let (Some(watchdog), Some(client)) = (&self.policy.watchdog, &self.client) {
            watchdog.start_recheck(&live, client, &self.state.housekeeper);
        }
        self.state.report_progress();
        Some(live)
    }

    /// The watch that tells interceptors whether the terminal event of the stream's API is missing, and informs observers about the events.
    /// `None` if there are neither.
    fn stream_watch(&self, live: Option<&Arc<LiveStream>>) -> Option<StreamWatch> {
        let needs_terminal = self.policy.inspects() || live.is_some();
        let client = self.client.as_ref().filter(|_| needs_terminal)?;
        let watch = StreamWatch::new(client.method == Method::POST);
        Some(match live {
            Some(live) => {
                let watchdog = self.policy.watchdog.as_ref();
                let classify = watchdog.and_then(|watchdog| watchdog.classify.clone());
                watch.observed(Arc::clone(live), classify)
            }
            None => watch,
        })
    }

    /// The watchdog of an observed stream.
    pub(crate) fn watchdog(&self, live: &LiveStream) -> StreamWatchdog {
        let watchdog = self.policy.watchdog.as_ref();
        let limits = watchdog.map(|watchdog| watchdog.limits_for(self.client.as_deref()));
        StreamWatchdog::new(
            limits.unwrap_or_default(),
            live.origin.arrived,
            live.head_at(),
        )
    }

    /// Returns the check that decides, by its head, whether another response can continue a stream.
    pub(crate) fn content_check(&self) -> ContentCheck {
        let policy = Arc::clone(&self.policy);
        Box::new(move |parts| {
            let coding = ContentCoding::of(&parts.headers);
            let continues = (policy.detect)(parts) && check_inspectable(parts, &coding).is_ok();
            let read_ahead = policy.read_ahead_of(parts);
            continues.then_some(BodyRules { coding, read_ahead })
        })
    }
}
