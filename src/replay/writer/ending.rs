//! How a recorded stream ends: with its upstream, by a limit, or by a decision of the layer.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use super::{Stage, StageProjection, StageReplaced, Transition, Writer};
use crate::{
    codec::Block,
    error::{Error, ErrorKind},
    live::drain_retry,
    log::{Ending, LogState},
    observe::{StreamEnded, StreamOutcome},
    replay::recorded_stream::RecordedStream,
    upstream::sink::Sink as _,
};

/// The memory, in bytes, of an ended stream without its log: the task, the entries in the registry, the response head and the key.
/// These are about 1.5 KiB in 15 allocations; the rest is the overhead of an allocator.
const ENDED_OVERHEAD: usize = 1792;

impl<B> Writer<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Ends the stream because of a limit: lets the interceptors finish if the upstream has no more events, and cuts the stream
    /// otherwise.
    pub(super) fn handle_limit(mut self: Pin<&mut Self>, is_detached: bool) {
        let this = self.as_mut().project();
        let stream = &this.registration.stream;
        let is_first = !this.lifetime.is_flushing();
        if is_detached && is_first && !stream.log.close_if_detached() {
            // A client has joined since the limit was checked.
            return;
        }
        match this.stage.project() {
            StageProjection::Reading { mut pull, .. } if is_first => {
                let is_complete = stream.progress.is_complete();
                let was_waiting = pull.as_mut().stop_waiting();
                if !was_waiting && is_complete {
                    pull.as_mut().finish_now();
                }
                if was_waiting || is_complete {
                    this.lifetime.start_flushing();
                    return;
                }
            }
            StageProjection::Draining { .. } => {
                // The readers have not made room in time: the last blocks are written anyway.
                this.encoder.set_room(u64::MAX, u64::MAX);
                return self.write();
            }
            _ => {}
        }
        self.transition(Transition::Cut(if is_detached {
            StreamOutcome::ClientLeft
        } else {
            StreamOutcome::Expired
        }));
    }

    /// Ends the stream with an outcome that the layer has decided: writes a last block that announces the end
    /// to the clients, if the outcome has one, and cuts the stream.
    pub(super) fn end_early(mut self: Pin<&mut Self>, outcome: StreamOutcome) {
        let this = self.as_mut().project();
        let last = match (outcome, this.stage.project()) {
            // A random reconnection time, so that the clients do not all resume at the same time.
            (StreamOutcome::Drained, _) => Some(Block::retry_hint(drain_retry())),
            (_, StageProjection::Reading { pull, .. }) => pull.ending(outcome),
            _ => None,
        };
        // The stream ends now: the writer does not wait for its readers any more.
        this.encoder.set_room(u64::MAX, u64::MAX);
        if let Some(last) = last {
            this.encoder.block(last);
        }
        self.as_mut().write();
        self.transition(Transition::Cut(outcome));
    }

    /// Changes the stage: from reading to draining when the upstream ends, from draining to ended when all blocks are written, and from
    /// both to ended when the stream is cut.
    pub(super) fn transition(mut self: Pin<&mut Self>, transition: Transition) {
        let mut this = self.as_mut().project();
        match transition {
            Transition::UpstreamEnded(end) => this.stage.set(Stage::Draining { end }),
            Transition::Drained => {
                let stage = this.stage.project_replace(Stage::Ended);
                if let StageReplaced::Draining { mut end } = stage {
                    if let Some(report) = end.report.take() {
                        report.close(StreamEnded::of(StreamOutcome::Completed));
                    }
                    self.close_log(end.truncated, end.ending);
                }
            }
            Transition::Cut(outcome) => {
                match this.stage.as_mut().project() {
                    StageProjection::Reading { pull, .. } => pull.close(outcome),
                    StageProjection::Draining { end } => {
                        if let Some(report) = end.report.take() {
                            report.close(StreamEnded::of(outcome));
                        }
                    }
                    StageProjection::Ended => return,
                }
                this.stage.set(Stage::Ended);
                let aborted = Arc::new(Error::new(ErrorKind::Aborted));
                self.close_log(false, Ending::Broken(aborted));
            }
        }
    }

    /// Ends the log, and gives it the state that decides whether a resume request asks the upstream to continue.
    fn close_log(self: Pin<&mut Self>, truncated: bool, ending: Ending) {
        let this = self.project();
        let RecordedStream {
            log,
            progress,
            continuation,
            ..
        } = &*this.registration.stream;
        progress.stop_waiting();
        let (state, may_continue) = match &ending {
            Ending::Clean(_) => {
                let may_continue = this.lifetime.is_flushing() || truncated;
                (LogState::Complete, may_continue)
            }
            // Only network failures may continue: after an interceptor failed, the upstream would skip the blocked event.
            Ending::Broken(error) => {
                let kind = error.kind();
                let is_network = matches!(kind, ErrorKind::Upstream | ErrorKind::Aborted);
                (LogState::Failed, is_network)
            }
        };
        let can_continue = may_continue && continuation.after_break && progress.last_id().is_some();
        let state = match state {
            _ if can_continue => LogState::Suspended,
            // The rest of the last event is missing, and no request can get it.
            LogState::Complete if truncated && !progress.is_complete() => LogState::Failed,
            state => state,
        };
        log.end(state, ending);
        this.registration.account(log.compact());
        progress.shrink();
        let overhead = ENDED_OVERHEAD + this.registration.stream.memory();
        this.registration.account(log.set_overhead(overhead));
        *this.lease = None;
    }
}
