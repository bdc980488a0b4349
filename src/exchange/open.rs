//! Opens each event stream that the layer reads.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, response};
use http_body::Body;
use tower::BoxError;

use crate::{
    exchange::{
        context::RequestContext,
        inspectable::{INTERCEPTOR_PANICKED, check_inspectable},
        session::SessionContext,
    },
    headers::{content_encoding::ContentCoding, event_stream},
    intercept::{Chain, StreamHead},
    observe::report::StreamReport,
    reconnect::ContentCheck,
    rejection::Rejection,
    session::SessionLease,
    upstream::{Pipeline, ProgressStage, Pull, body::DecodedBody, terminal::TerminalWatch},
};

impl RequestContext {
    /// Opens an event stream: its interceptors, the session stage, and the report of its end. Every stream that the layer reads is
    /// opened here. Also rewrites the head for a body that the layer writes.
    ///
    /// `progress` is for streams that are recorded or reconnected. Rejects the request if an interceptor panics when it is opened.
    pub(crate) fn open_stream<B>(
        &self,
        parts: &mut response::Parts,
        body: DecodedBody<B>,
        session: Option<Box<SessionContext>>,
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
            return Err(INTERCEPTOR_PANICKED.reject(policy.route.clone()));
        };
        let lease = session.as_deref().and_then(SessionContext::lease);
        if let Some(stage) = session.and_then(|session| session.into_stage()) {
            chain.put_first(stage);
        }
        if let Some(progress) = progress {
            chain.put_first(progress);
        }
        event_stream::rewrite_headers(&mut parts.headers);
        let report = StreamReport::new(policy.route.clone());
        let pipeline = Pipeline::new(chain, policy.strip_comments, report)
            .with_terminal_watch(self.terminal_watch());
        let pull =
            Pull::new(body, policy.decoder(), pipeline).reject_foreign_encodings(policy.inspects());
        Ok((pull, lease))
    }

    /// Lets interceptors know if the terminal event of the stream's API is missing.
    fn terminal_watch(&self) -> Option<TerminalWatch> {
        let client = self.client.as_ref().filter(|_| self.policy.inspects())?;
        Some(TerminalWatch::new(client.method == Method::POST))
    }

    /// Decides whether another response can continue a stream.
    pub(crate) fn content_check(&self) -> ContentCheck {
        let policy = Arc::clone(&self.policy);
        Box::new(move |parts| {
            let coding = ContentCoding::of(&parts.headers);
            let continues = (policy.detect)(parts) && check_inspectable(parts, &coding).is_ok();
            continues.then_some(coding)
        })
    }
}
