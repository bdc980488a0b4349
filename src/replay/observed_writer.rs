//! The reports of a writer about its stream.

use std::{pin::Pin, sync::Arc, task::Poll};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;
use tower::BoxError;

use crate::{
    codec::ChunkSlice,
    live::StreamWatchdog,
    observe::{LiveStream, StreamOutcome, StreamProgress, TapSide},
    upstream::{Pull, Step},
};

/// The counters and the watchdog of a stream that is written.
pub(super) struct ObservedWriter {
    live: Arc<LiveStream>,
    watchdog: StreamWatchdog,
    progress: StreamProgress,
    /// The time since which an event has waited for a deferred verdict.
    held_since: Option<Instant>,
}

impl ObservedWriter {
    pub(super) fn new(live: &Arc<LiveStream>, watchdog: StreamWatchdog) -> Self {
        Self {
            live: Arc::clone(live),
            watchdog,
            progress: StreamProgress::default(),
            held_since: None,
        }
    }

    /// The outcome of a stream that has to end now, by a decision of the layer or because a watchdog fires. `None` if the stream goes on.
    ///
    /// `continue_anew` asks the upstream to continue, and returns false if the stream cannot be continued.
    pub(super) fn poll_end(
        &mut self,
        continue_anew: impl FnOnce() -> bool,
    ) -> Option<StreamOutcome> {
        if let Some(outcome) = self.live.decided_end() {
            return Some(outcome);
        }
        if !self.watchdog.has_limits() {
            return None;
        }
        let now = Instant::now();
        let kind = self.watchdog.check(now)?;
        let acts = !self.watchdog.only_observes();
        self.live.watchdog_fired(kind, acts);
        if !acts {
            return None;
        }
        if self.watchdog.may_reconnect(kind) && continue_anew() {
            self.watchdog.handle_reconnect(now);
            return None;
        }
        self.live.end_with(kind.outcome());
        self.live.decided_end()
    }

    /// Settles the natural end of the stream. See [`LiveStream::settle`].
    pub(super) fn settle(&self) -> Option<StreamOutcome> {
        self.live.settle()
    }

    /// The time at which [`poll_end`](Self::poll_end) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.watchdog.deadline()
    }

    /// Handles a pause in which the writer waits for readers.
    pub(super) fn handle_wait(&mut self) {
        self.watchdog.handle_poll(false, false, Instant::now());
    }

    /// Handles a poll of the upstream.
    ///
    /// `waiting` is the size, in bytes, of the encoder's blocks that are not in the log yet.
    pub(super) fn handle_read<B>(
        &mut self,
        mut pull: Pin<&mut Pull<B>>,
        step: &Poll<Step>,
        waiting: usize,
    ) where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let now = Instant::now();
        let has_content = pull.as_mut().take_content();
        let written = self.progress.bytes_out;
        self.progress = StreamProgress {
            bytes_out: written,
            ..pull.progress()
        };
        self.live.update(self.progress, has_content, now);
        self.live.set_buffered(pull.retained_bytes() + waiting);
        if has_content && let Some(gap) = self.watchdog.handle_content(now) {
            self.live.count_gap(gap);
        }
        let waits_for_upstream = step.is_pending() && pull.as_mut().waits_for_upstream();
        self.watchdog.handle_poll(waits_for_upstream, false, now);
        let has_ended = matches!(step, Poll::Ready(step) if step.is_last());
        let holds_events = !pull.is_idle() && !has_ended;
        // Counts the time also while the event is held, because no poll follows if its verdict fails.
        if let Some(since) = self.held_since {
            self.live.count_hold(now - since, !holds_events);
        }
        self.held_since = holds_events.then(|| self.held_since.unwrap_or(now));
    }

    /// Handles blocks that are about to be written to the log.
    pub(super) fn handle_written(&mut self, blocks: &[(ChunkSlice, bool)]) {
        let bytes: usize = blocks.iter().map(|(block, _)| block.len()).sum();
        self.progress.bytes_out += bytes as u64;
        self.live.update(self.progress, false, Instant::now());
        if self.live.taps.any() {
            for (block, _) in blocks {
                let raw = Bytes::copy_from_slice(block.bytes());
                self.live.taps.send(TapSide::Client, &raw);
            }
        }
    }
}
