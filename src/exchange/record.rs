//! Recording the event stream of a response.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, request, response};
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    codec::{ChunkSlice, Event},
    exchange::{context::RequestContext, inspectable::check_inspectable, session::SessionContext},
    headers::{content_encoding::ContentCoding, event_stream_head},
    log::{LogEncoder, SharedLog},
    observe::{StreamOutcome, StreamSlot},
    reconnect::RetryRequest,
    rejection::Rejection,
    replay::{
        Replay, Subscription,
        continuation_rules::ContinuationRules,
        driver::RecordDriver,
        key::{StreamKey, StreamOwner},
        lifetime::Limits,
        pending_resume::PendingResume,
        recorded_stream::{NewRecordedStream, RecordedStream},
        single_flight::LeaderGuard,
    },
    session::SessionId,
    stream_id::StreamId,
    upstream::{
        ProgressStage,
        body::{DecodedBody, RawBody},
        sink::Sink,
    },
};

/// How the stream of a response is recorded.
pub(crate) struct RecordingContext {
    pub(crate) replay: Arc<Replay>,
    pub(crate) owner: StreamOwner,
    pub(crate) key: StreamKey,
    /// The client resumes a stream that the response may continue.
    pub(crate) pending: Option<PendingResume>,
    /// The request may share the call of an equal request.
    pub(crate) coalesces: bool,
    /// Other requests wait to share the stream.
    pub(crate) leader: Option<LeaderGuard>,
    /// The place of the stream, if the number of streams is limited.
    pub(crate) slot: Option<Arc<StreamSlot>>,
}

impl RecordingContext {
    /// The context of a stream that no other request shares, and that does not continue a recorded stream.
    pub(crate) fn new(replay: &Arc<Replay>, owner: StreamOwner, key: StreamKey) -> Self {
        Self {
            replay: Arc::clone(replay),
            owner,
            key,
            pending: None,
            coalesces: false,
            leader: None,
            slot: None,
        }
    }

    /// The context for a request that resumes no stream, shares no stream, and has no session. `None` if the policy records no
    /// streams.
    pub(crate) fn of(request: &RequestContext, client: &request::Parts) -> Option<Box<Self>> {
        let replay = request.policy.replay.as_ref()?;
        let owner = StreamOwner {
            owner: request.owner(client),
            session: None,
        };
        let key = StreamKey::of(client, replay);
        Some(Box::new(Self::new(replay, owner, key)))
    }

    /// Whether the request may share the call of an equal request.
    pub(crate) fn coalesces(&self) -> bool {
        self.coalesces
    }

    /// Handles the result of the service, which may continue the stream that the client resumes. Returns what the client reads if
    /// the response does not continue it.
    pub(crate) fn handle_result<B: 'static, E>(
        &mut self,
        result: &Result<Response<B>, E>,
    ) -> Option<Subscription> {
        let status = result.as_ref().ok().map(Response::status);
        match self.pending.take()?.resolve_upstream_response::<B>(status) {
            ControlFlow::Break(subscription) => Some(subscription),
            ControlFlow::Continue(pending) => {
                self.pending = Some(pending);
                None
            }
        }
    }

    /// Sets the session that the stream belongs to.
    pub(crate) fn set_session(&mut self, session: Option<SessionId>) {
        self.owner.session = session;
    }

    /// Sets the place of the stream.
    pub(crate) fn set_slot(&mut self, slot: Option<Arc<StreamSlot>>) {
        self.slot = slot;
    }
}

/// Records the event stream of a response, or continues a recorded stream with it. Returns the subscription of its client.
pub(crate) fn record<B>(
    request: &RequestContext,
    client: &request::Parts,
    mut parts: response::Parts,
    body: B,
    mut recording: RecordingContext,
    session: Option<Box<SessionContext>>,
    retry: Option<Box<RetryRequest<Response<B>>>>,
) -> Result<Subscription, Rejection>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let pending = recording.pending.take();
    if let Some(pending) = &pending
        && pending.stream.is_closed()
    {
        return Err(Rejection::closed(&client.method));
    }
    let coding = ContentCoding::of(&parts.headers);
    if let Err(why) = check_inspectable(&parts, &coding) {
        return Err(why.reject(request.policy.route.clone()));
    }
    let body = RawBody::new(body, request.policy.read_ahead_of(&parts));
    let mut body = DecodedBody::new(&coding, body);
    let mut predecessor = None;
    if let Some(pending) = pending {
        match pending.resume_with(body) {
            Ok((stream, reader)) => {
                event_stream_head::rewrite_headers(&mut parts.headers);
                return Ok(Subscription::new(stream, parts, reader));
            }
            Err((unused, ended)) => {
                body = unused;
                predecessor = Some(ended);
            }
        }
    }

    let RecordingContext {
        replay,
        owner,
        key,
        leader,
        slot,
        ..
    } = recording;
    let progress = predecessor.as_ref();
    let progress = progress.map(|stream| stream.progress.successor());
    let progress = Arc::new(progress.unwrap_or_default());
    let stage = ProgressStage::new(
        Arc::clone(&progress),
        Some(Arc::clone(&replay.complete_when)),
    );
    let id = StreamId::random();
    let (pull, lease) = request.open_stream(&mut parts, body, session, Some(id), Some(stage))?;
    let live = pull.live().map(Arc::clone);
    let pull = pull.with_drop_outcome(StreamOutcome::Drained);

    let streams = &request.state.streams;
    let now = Instant::now();
    let resumes_with_get = retry.as_ref().is_some_and(|retry| retry.is_get());
    let sessions = request.policy.sessions.as_deref();
    let (stream, on_demand) = RecordedStream::new(NewRecordedStream {
        id,
        live: live.clone(),
        log: SharedLog::new(replay.retention, now),
        account: streams.registry.account_of(&owner.owner),
        owner,
        key,
        progress: Arc::clone(&progress),
        headers: &event_stream_head::shared_headers(&parts.headers, |name| {
            replay.response_headers.contains(name)
                || sessions.is_some_and(|sessions| sessions.has_header(name))
        }),
        preserves_upstream_ids: replay.preserve_upstream_ids,
        continuation: ContinuationRules::new(&replay, &client.method, resumes_with_get),
    });
    let stream = Arc::new(stream);
    if let Some(predecessor) = &predecessor {
        predecessor.set_successor(&stream);
    }
    let pull = match retry {
        Some(retry) => {
            let check = request.content_check();
            let (live, fallback) = (live.clone(), Some(on_demand));
            pull.with_continuation(retry.into_continuation(progress, check, live, fallback))
        }
        None => pull.with_continuation(on_demand),
    };

    if let Some(prime) = replay
        .priming_event
        .filter(|_| !replay.preserve_upstream_ids)
    {
        let blocks = priming_event(&stream, prime.retry);
        let change = stream.log.write(blocks, now);
        streams.registry.account(&stream, change);
    }
    let reader = stream.subscribe(stream.log.oldest());
    let detaches = replay.detach_when.as_ref();
    let grace_period = if detaches.is_none_or(|detaches| detaches(client, &parts)) {
        replay.grace_period
    } else {
        Duration::ZERO
    };
    let limits = Limits::new(grace_period, replay.max_detached_bytes, replay.max_age);
    streams.registry.insert(id, Arc::clone(&stream));
    if predecessor.is_some_and(|predecessor| predecessor.is_closed()) {
        // The predecessor may have been closed before this stream was its successor, so that this one is still open.
        streams.close_found(&stream, StreamOutcome::Cancelled);
    }
    if let (Some(live), Some(slot)) = (&live, &slot) {
        // Before other clients join, which then need no place of their own.
        live.set_slot(slot);
    }
    if let Some(leader) = leader {
        leader.complete(&stream);
    }
    let driver = RecordDriver::new(
        pull,
        stream,
        Arc::clone(streams),
        request.state.read_buffer,
        limits,
        live.map(|live| request.watchdog(&live)),
        lease,
    );
    (replay.executor)(Box::pin(driver));
    Ok(Subscription::new(id, parts, reader))
}

/// An event with an id and without data, by which clients can resume the stream before its first event.
fn priming_event(stream: &RecordedStream, retry: Option<Duration>) -> Vec<(ChunkSlice, bool)> {
    let mut event = Event::new("");
    if let Some(retry) = retry {
        event.set_retry(retry);
    }
    let mut encoder = LogEncoder::new(Some(stream.id));
    encoder.set_room(1, 0);
    encoder.block(event.into());
    encoder.encode(stream.log.next_position())
}
