//! An answer of the service whose stream is to be kept.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, request, response};
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    codec::{Decoder, Event},
    exchange::resume::Rejoin,
    headers::event_stream,
    intercept::Chain,
    layer::Config,
    log::{CursorLookup, LogEncoder, Reader, SharedLog, StreamId},
    observe::report::{StreamOutcome, StreamReport},
    reconnect::{ContentCheck, Reconnecting, RetryRequest},
    replay::{
        Replay,
        coalesce::LeaderGuard,
        continuation_rules::ContinuationRules,
        driver::{Limits, RecordDriver},
        recorded_stream::{RecordedStream, StreamKey, StreamOwner},
        resume_gate::ResumePermit,
    },
    session::{SessionLease, SessionMapping},
    upstream::{
        Pipeline, ProgressStage, Pull, body::DecodedBody, sink::Sink, terminal::TerminalWatch,
    },
};

/// What a stream was asked for by.
pub(crate) struct Asked {
    pub(crate) config: Arc<Config>,
    pub(crate) replay: Arc<Replay>,
    pub(crate) whose: StreamOwner,
    pub(crate) target: StreamKey,
    /// The stream that the answer goes on with, and where its client is in it.
    pub(crate) rejoins: Option<Rejoins>,
    /// The stream that this one follows on, once that is known to be over.
    pub(crate) follows: Option<Arc<RecordedStream>>,
    /// For those who wait to share the stream.
    pub(crate) ticket: Option<LeaderGuard>,
}

/// A client that has read all there is of a stream, and has the upstream asked to go on.
pub(crate) struct Rejoins {
    pub(crate) recording: Arc<RecordedStream>,
    pub(crate) reader: Reader,
    /// The id after which it was asked to.
    pub(crate) last_id: String,
    /// The client may be one that cannot read a status.
    pub(crate) by_event_source: bool,
    /// Nobody else asks, where the stream is shared.
    pub(crate) turn: ResumePermit,
}

impl Rejoins {
    /// Whether the client gets what there is [for now](Self::for_now) in the place of an answer at which it would give up.
    pub(crate) fn is_spared<B: 'static>(&self, answer: Option<StatusCode>) -> bool {
        match answer {
            // Who is told so comes back no more, and would miss what interceptors hold.
            Some(StatusCode::NO_CONTENT) => self.recording.finish::<B>(&self.reader, &self.last_id),
            // There is one answer at a time, and another client has it, or the same one that was cut off.
            Some(StatusCode::CONFLICT) => self
                .recording
                .has_advanced_past(&self.reader, &self.last_id),
            Some(status) if !status.is_server_error() => false,
            // On a status other than 200 an `EventSource` gives up for good (WHATWG HTML 9.2.3). At the end of a stream it comes
            // back after a while, and the upstream may be there again.
            _ => {
                if self.by_event_source {
                    self.turn.fail();
                }
                self.by_event_source
            }
        }
    }

    /// All there is for now, which is nothing.
    pub(crate) fn for_now(self) -> Rejoin {
        Rejoin {
            head: self.recording.head(),
            reader: Some(self.reader),
            first: None,
        }
    }
}

/// The answer's head, and what is done with its body.
pub(crate) struct Kept<'a> {
    pub(crate) request: &'a request::Parts,
    /// As the client gets it.
    pub(crate) response: &'a response::Parts,
    pub(crate) sessions: Option<&'a SessionMapping>,
    pub(crate) chain: Chain,
    pub(crate) decoder: Decoder,
    pub(crate) strip_comments: bool,
    pub(crate) watch: Option<TerminalWatch>,
    pub(crate) report: StreamReport,
    pub(crate) lease: Option<SessionLease>,
}

impl Asked {
    /// A stream of its own, shared with nobody.
    pub(crate) fn new(
        config: &Arc<Config>,
        replay: &Arc<Replay>,
        whose: StreamOwner,
        target: StreamKey,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            replay: Arc::clone(replay),
            whose,
            target,
            rejoins: None,
            follows: None,
            ticket: None,
        }
    }

    /// Whether the stream that the answer continues was closed while the upstream was asked.
    pub(crate) fn is_closed(&self) -> bool {
        let rejoins = self.rejoins.as_ref();
        rejoins.is_some_and(|rejoins| rejoins.recording.is_closed())
    }

    /// Goes on with the stream that the client has come back to: with this answer, or without, if by now there is more to have of
    /// it than there was, or another one follows on it. Gives back the answer if the stream is over.
    pub(crate) fn go_on<B: Send + 'static>(
        &mut self,
        answer: DecodedBody<B>,
    ) -> Result<Reader, DecodedBody<B>> {
        let Some(rejoins) = self.rejoins.take() else {
            return Err(answer);
        };
        let (recording, last_id) = (rejoins.recording, rejoins.last_id);
        let Err(answer) = recording.resume_with(answer) else {
            return Ok(rejoins.reader);
        };
        if recording.has_advanced_past(&rejoins.reader, &last_id) {
            return Ok(rejoins.reader);
        }
        if let Some(next) = recording.successor()
            && let CursorLookup::At(start) = next.channel.start()
        {
            return Ok(Reader::new(Arc::clone(&next.channel), start));
        }
        self.follows = Some(recording);
        Err(answer)
    }

    /// Keeps a stream from now on. Its client is the first of those that read it.
    pub(crate) fn keep<B>(
        self,
        answer: DecodedBody<B>,
        kept: Kept<'_>,
        repeat: Option<(RetryRequest<Response<B>>, ContentCheck)>,
    ) -> Reader
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (replay, logs) = (self.replay, self.config.logs());
        let token = StreamId::random();
        let now = Instant::now();
        let channel = SharedLog::new(replay.bounds, now);
        let account = logs.account_of(&self.whose.owner);
        let stamped = (self.whose, self.target);
        let before = self.follows;
        let progress = before.as_ref().map(|before| before.progress.followed());
        let by_get = repeat.as_ref().is_some_and(|(repeat, _)| repeat.is_get());
        let continuation = ContinuationRules::new(&replay, &kept.request.method, by_get);
        let (recording, waiting) = RecordedStream::new::<B>(
            token,
            stamped,
            (channel, account),
            progress.unwrap_or_default(),
            &event_stream::shared_headers(&kept.response.headers, |name| {
                let sessions = kept.sessions;
                replay.response_headers.contains(name)
                    || sessions.is_some_and(|sessions| sessions.has_header(name))
            }),
            replay.upstream_ids,
            continuation,
        );
        let recording = Arc::new(recording);
        if let Some(before) = &before {
            before.set_successor(&recording);
        }

        let mut chain = kept.chain;
        let report = kept.report.if_dropped(StreamOutcome::Shutdown);
        let progress = Arc::clone(&recording.progress);
        chain.put_first(ProgressStage::new(
            progress,
            Some(Arc::clone(&replay.completes)),
        ));
        let pipeline = Pipeline::new(chain, kept.strip_comments, report).watched(kept.watch);
        let pull = Pull::new(answer, kept.decoder, pipeline).only_utf8(true);
        let pull = match repeat {
            Some((repeat, readable)) => {
                let progress = Arc::clone(&recording.progress);
                pull.continued_by(Reconnecting::new(repeat, progress, readable, Some(waiting)))
            }
            None => pull.continued_by(waiting),
        };

        if let Some(prime) = replay.prime.filter(|_| !replay.upstream_ids) {
            let mut event = Event::new("");
            if let Some(retry) = prime.retry {
                event.set_retry(retry);
            }
            let mut stamp = LogEncoder::new(Some(token));
            stamp.make_room(1, 0);
            stamp.block(event.into());
            let blocks = stamp.take(recording.channel.next_position());
            logs.account(&recording, recording.channel.write(blocks, now));
        }
        let reader = Reader::new(Arc::clone(&recording.channel), recording.channel.oldest());
        let outlives = replay.detach.as_ref();
        let outlives = outlives.is_none_or(|outlives| outlives(kept.request, kept.response));
        let linger = if outlives {
            replay.linger
        } else {
            Duration::ZERO
        };
        let limits = Limits::new(linger, replay.detached_bytes, replay.lifetime);
        logs.insert(token, Arc::clone(&recording));
        if before.is_some_and(|before| before.is_closed()) {
            // The one that closed it may not have seen what follows on it.
            self.config.close(&recording);
        }
        if let Some(ticket) = self.ticket {
            ticket.complete(&recording);
        }
        let pump = RecordDriver::new(pull, recording, &self.config, limits, kept.lease);
        (replay.executor)(Box::pin(pump));
        reader
    }
}
