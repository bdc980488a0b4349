//! An open event stream: its counters, and its end.

use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    Observers, RejectionReason, StreamOutcome, StreamProgress, StreamRecord, WatchdogEvent,
    WatchdogKind,
    admission::{Refused, StreamSlot},
    counters::{Counters, micros},
    info::{StreamInfo, StreamOrigin},
    open_streams::OpenStreams,
    tap::Taps,
};
use crate::{session::SessionId, stream_id::StreamId};

/// An event stream that is open, and observed.
///
/// The task that reads the upstream updates the counters after it has moved blocks; other tasks read the counters.
pub(crate) struct LiveStream {
    pub(crate) id: StreamId,
    pub(crate) origin: Arc<StreamOrigin>,
    pub(crate) session: Option<SessionId>,
    pub(crate) is_recorded: bool,
    pub(crate) counters: Counters,
    pub(crate) taps: Taps,
    status: StatusCode,
    head_at: Instant,
    buffered: AtomicUsize,
    /// The bytes that were read ahead of the client.
    read_ahead: AtomicUsize,
    end: Mutex<End>,
    /// The layer has decided that the stream ends. While this is false, the stream need not lock `end`.
    is_ending: AtomicBool,
    is_closed: AtomicBool,
    control: OnceLock<Weak<dyn StreamControl>>,
    /// The slot of the stream, while it has a client.
    slot: Mutex<Weak<StreamSlot>>,
    /// A value that is dropped when the stream is closed.
    kept: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    observers: Observers,
    /// The progress that was last reported to the observers. `None` after the end.
    reported: Mutex<Option<StreamProgress>>,
    streams: Arc<OpenStreams<LiveStream>>,
}

/// The party that ends a stream. The first decision counts.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    /// The stream runs.
    #[default]
    Open,
    /// The layer ends the stream, with this outcome.
    Decided(StreamOutcome),
    /// The stream has ended without a decision of the layer.
    Settled,
}

/// Ends a stream from outside.
pub(crate) trait StreamControl: Send + Sync {
    /// Ends the stream now, with the outcome that [`LiveStream::end_with`] has set: cancels the upstream, reports the end, and lets the
    /// clients see a cut.
    fn end(&self, outcome: StreamOutcome);

    /// The clients that read the stream now.
    fn clients(&self) -> usize;
}

impl LiveStream {
    /// The stream that `origin` opened. `status` is the status of the response, whose head has arrived now.
    pub(super) fn new(
        id: StreamId,
        origin: Arc<StreamOrigin>,
        session: Option<SessionId>,
        status: StatusCode,
        is_recorded: bool,
        observers: Observers,
        streams: Arc<OpenStreams<LiveStream>>,
    ) -> Self {
        Self {
            id,
            origin,
            session,
            is_recorded,
            counters: Counters::default(),
            taps: Taps::default(),
            status,
            head_at: Instant::now(),
            end: Mutex::default(),
            buffered: AtomicUsize::new(0),
            read_ahead: AtomicUsize::new(0),
            is_ending: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            control: OnceLock::new(),
            slot: Mutex::default(),
            kept: Mutex::default(),
            observers,
            reported: Mutex::new(Some(StreamProgress::default())),
            streams,
        }
    }

    /// Sets what ends the stream from outside. If the end was decided before, it is carried out now.
    pub(crate) fn set_control(&self, control: Weak<dyn StreamControl>) {
        let _ = self.control.set(control);
        let end = *self.lock_end();
        if let End::Decided(outcome) = end
            && let Some(control) = self.control()
        {
            control.end(outcome);
        }
    }

    fn control(&self) -> Option<Arc<dyn StreamControl>> {
        self.control.get().and_then(Weak::upgrade)
    }

    fn lock_end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the head of the upstream's response arrived.
    pub(crate) fn head_at(&self) -> Instant {
        self.head_at
    }

    /// The clients that read the stream now.
    pub(crate) fn clients(&self) -> usize {
        self.control().map_or(0, |control| control.clients())
    }

    /// Decides the outcome of the stream, and ends it. Returns false if it has ended, or if its end is decided.
    pub(crate) fn end_with(&self, outcome: StreamOutcome) -> bool {
        let decides = self.decide(outcome);
        // A stream that opens now gets its control later, and ends then.
        if decides && let Some(control) = self.control() {
            control.end(outcome);
        }
        decides
    }

    /// Decides the outcome of the stream, and leaves it to the caller to end it. Returns false if the stream has ended, or if its end is
    /// decided.
    pub(crate) fn decide(&self, outcome: StreamOutcome) -> bool {
        let mut end = self.lock_end();
        let is_open = matches!(*end, End::Open);
        if is_open {
            *end = End::Decided(outcome);
            self.is_ending.store(true, Relaxed);
        }
        is_open
    }

    /// The outcome that was decided by [`end_with`](Self::end_with).
    pub(crate) fn decided_end(&self) -> Option<StreamOutcome> {
        if !self.is_ending.load(Relaxed) {
            return None;
        }
        match *self.lock_end() {
            End::Decided(outcome) => Some(outcome),
            End::Open | End::Settled => None,
        }
    }

    /// Settles the natural end of the stream: after this, nothing else ends it. Returns the outcome if another end was decided before.
    pub(crate) fn settle(&self) -> Option<StreamOutcome> {
        let mut end = self.lock_end();
        match *end {
            End::Decided(outcome) => Some(outcome),
            End::Open | End::Settled => {
                *end = End::Settled;
                None
            }
        }
    }

    /// Updates the counters, and notifies observers of the first event. `has_content` says whether an event with content has arrived
    /// since the last update.
    pub(crate) fn update(&self, progress: StreamProgress, has_content: bool, now: Instant) {
        let counters = &self.counters;
        let after = now.saturating_duration_since(self.origin.arrived);
        if progress.events_in > counters.events_in.load(Relaxed) {
            counters.last_event.set(after);
            if counters.first_event.get().is_none() {
                counters.first_event.set(after);
                self.observers
                    .each(|observer| observer.first_event(&self.info()));
            }
        }
        if has_content && counters.first_content.get().is_none() {
            counters.first_content.set(after);
        }
        counters.events_in.store(progress.events_in, Relaxed);
        counters.events_out.store(progress.events_out, Relaxed);
        counters.bytes_in.store(progress.bytes_in, Relaxed);
        let added = counters.added_bytes.load(Relaxed);
        counters
            .bytes_out
            .store(progress.bytes_out + added, Relaxed);
    }

    /// How far the stream has got, by its last update.
    pub(crate) fn progress(&self) -> StreamProgress {
        let counters = &self.counters;
        StreamProgress {
            events_in: counters.events_in.load(Relaxed),
            events_out: counters.events_out.load(Relaxed),
            bytes_in: counters.bytes_in.load(Relaxed),
            bytes_out: counters.bytes_out.load(Relaxed),
        }
    }

    /// Sets the bytes that the stream holds in buffers. If all streams together hold more than they may, the one that holds the most
    /// ends.
    pub(crate) fn set_buffered(&self, bytes: usize) {
        // The buffers of a closed stream are about to be freed.
        let bytes = if self.is_closed() { 0 } else { bytes };
        let before = self.buffered.swap(bytes, Relaxed);
        if self.streams.set_buffered(before, bytes) {
            self.end_largest();
        }
    }

    /// Counts bytes that were read ahead of the client, until they are [removed](Self::remove_read_ahead). If it returns true, all streams
    /// together hold more than they may, and the caller calls [`end_largest`](Self::end_largest) once it holds no lock.
    pub(crate) fn add_read_ahead(&self, bytes: usize) -> bool {
        self.read_ahead.fetch_add(bytes, Relaxed);
        self.streams.set_buffered(0, bytes)
    }

    /// Subtracts bytes that were read ahead, because the client has taken them or they were dropped.
    pub(crate) fn remove_read_ahead(&self, bytes: usize) {
        self.read_ahead.fetch_sub(bytes, Relaxed);
        self.streams.set_buffered(bytes, 0);
    }

    /// Ends the stream that holds the most in buffers.
    pub(crate) fn end_largest(&self) {
        let all = self.streams.all();
        let largest = all.iter().max_by_key(|stream| stream.buffered());
        if let Some(largest) = largest {
            largest.end_with(StreamOutcome::Overflow);
        }
    }

    fn buffered(&self) -> usize {
        // A stream whose end is decided frees its buffers in a moment.
        match self.decided_end() {
            Some(_) => 0,
            None => self.buffered.load(Relaxed) + self.read_ahead.load(Relaxed),
        }
    }

    /// Counts a gap between two events with content.
    pub(crate) fn count_gap(&self, gap: Duration) {
        let gap = micros(gap);
        self.counters.longest_gap.fetch_max(gap, Relaxed);
        self.counters.gap_count.fetch_add(1, Relaxed);
        self.counters.gap_sum.fetch_add(gap, Relaxed);
    }

    /// Counts the time that an event has waited for a deferred verdict. `has_ended`: no event waits any longer.
    pub(crate) fn count_hold(&self, held: Duration, has_ended: bool) {
        self.counters.held_max.fetch_max(micros(held), Relaxed);
        if has_ended {
            self.observers
                .each(|observer| observer.held(&self.info(), held));
        }
    }

    /// Reports to the observers the events and bytes since the last report.
    pub(crate) fn report_progress(&self) {
        let moved = {
            let mut reported = self.lock_reported();
            let Some(reported) = &mut *reported else {
                return;
            };
            let progress = self.progress();
            progress.since(std::mem::replace(reported, progress))
        };
        self.report_moved(&moved);
    }

    fn report_moved(&self, moved: &StreamProgress) {
        if *moved != StreamProgress::default() && self.observers.progress_interval().is_some() {
            let info = self.info();
            self.observers.each(|observer| {
                if observer.progress_interval().is_some() {
                    observer.progress(&info, moved);
                }
            });
        }
    }

    fn lock_reported(&self) -> MutexGuard<'_, Option<StreamProgress>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the slot for another client of this stream: the slot that the stream has, else `admitted`, else a new slot. `None` without
    /// limits. Closing the stream frees the slot.
    pub(crate) fn slot_for_client(
        &self,
        admitted: Option<Arc<StreamSlot>>,
    ) -> Result<Option<Arc<StreamSlot>>, Refused> {
        let admission = self.streams.admission();
        if admitted.is_none() && admission.is_draining() {
            return Err(Refused::Draining);
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slot.upgrade() {
            return Ok(Some(slot));
        }
        let new = match admitted {
            Some(admitted) => admitted,
            None if admission.is_limited() => admission.admit(self.origin.owner)?,
            None => return Ok(None),
        };
        *slot = Arc::downgrade(&new);
        Ok(Some(new))
    }

    /// Sets the slot of a stream that has one client.
    pub(crate) fn set_slot(&self, new: &Arc<StreamSlot>) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::downgrade(new);
    }

    /// Stores a value, and drops it when the stream is closed.
    pub(crate) fn keep(&self, kept: Arc<dyn Any + Send + Sync>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    /// Whether the stream has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    /// Notes that the stream may have lost a client.
    pub(crate) fn notify_client_left(&self) {
        self.streams.notify_changed();
    }

    /// Counts bytes that the layer adds to an attached stream.
    pub(crate) fn count_added(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.counters.added_bytes.fetch_add(bytes, Relaxed);
        self.counters.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// Counts a client that resumed the stream.
    pub(crate) fn count_resume(&self) {
        self.counters.resumes.fetch_add(1, Relaxed);
        self.observers
            .each(|observer| observer.resumed(&self.info()));
    }

    /// Counts a client that got a gap event or an error status.
    pub(crate) fn count_gap_report(&self, reason: &'static str) {
        self.counters.gaps.fetch_add(1, Relaxed);
        self.observers
            .each(|observer| observer.gap(Some(&self.info()), reason));
    }

    /// Counts a client that was cut because it could not keep up.
    pub(crate) fn count_lagged_reader(&self) {
        self.counters.lagged_readers.fetch_add(1, Relaxed);
    }

    /// Reports an attempt to reconnect (`None`), or its result.
    pub(crate) fn reconnecting(&self, succeeded: Option<bool>) {
        if succeeded == Some(true) {
            self.counters.reconnects.fetch_add(1, Relaxed);
        }
        self.observers
            .each(|observer| observer.reconnecting(&self.info(), succeeded));
    }

    /// Reports that a watchdog has fired.
    pub(crate) fn watchdog_fired(&self, kind: WatchdogKind, acts: bool) {
        let event = WatchdogEvent {
            kind,
            acts,
            stream: Some(self.id),
            route: self.origin.route.clone(),
        };
        self.observers.each(|observer| observer.watchdog(&event));
    }

    /// A snapshot of the stream.
    pub(crate) fn info(&self) -> StreamInfo {
        let age = self.origin.arrived.elapsed();
        let last = self.counters.last_event.get().unwrap_or_default();
        StreamInfo {
            id: self.id,
            route: self.origin.route.clone(),
            method: self.origin.method.clone(),
            owner: self.origin.owner,
            clients: self.clients(),
            is_recorded: self.is_recorded,
            age,
            idle: age.saturating_sub(last),
            events: self.counters.events_out.load(Relaxed),
            bytes: self.counters.bytes_out.load(Relaxed),
            buffered: self.buffered.load(Relaxed) + self.read_ahead.load(Relaxed),
        }
    }

    /// Reports the end of the stream. Called once.
    pub(super) fn close(&self, end: ClosedStream) {
        self.is_closed.store(true, Relaxed);
        self.set_buffered(0);
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slot.upgrade() {
            // The body may stay with a client that takes nothing, but the stream is over.
            slot.release();
        }
        drop(slot);
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(kept);
        self.streams.remove(self.id);
        self.taps.close();
        // The last report and the record have the same counts, also if the counters still change.
        let (reported, progress) = {
            let mut reported = self.lock_reported();
            (reported.take().unwrap_or_default(), self.progress())
        };
        self.report_moved(&progress.since(reported));
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let gaps = count(&counters.gap_count);
        let head_at = self.head_at;
        let record = StreamRecord {
            opened: true,
            rejection: end.rejection,
            time_to_head: Some(head_at.saturating_duration_since(self.origin.arrived)),
            time_to_first_event: counters.first_event.get(),
            time_to_first_content: counters.first_content.get(),
            longest_gap: Duration::from_micros(count(&counters.longest_gap)),
            mean_gap: (count(&counters.gap_sum).checked_div(gaps)).map(Duration::from_micros),
            events_in: progress.events_in,
            events_out: progress.events_out,
            bytes_in: progress.bytes_in,
            bytes_out: progress.bytes_out,
            terminal_event: end.terminal_event,
            resumes: count(&counters.resumes),
            gaps: count(&counters.gaps),
            lagged_readers: count(&counters.lagged_readers),
            reconnects: count(&counters.reconnects),
            held_max: Duration::from_micros(count(&counters.held_max)),
            model: end.model,
            ..StreamRecord::new(self.id, end.outcome, &self.origin, Some(self.status))
        };
        self.observers.each(|observer| observer.closed(&record));
    }
}

/// How a stream ended, for its record.
pub(crate) struct ClosedStream {
    pub(crate) outcome: StreamOutcome,
    pub(crate) rejection: Option<RejectionReason>,
    /// Whether the terminal event of the stream's API was forwarded.
    pub(crate) terminal_event: bool,
    pub(crate) model: Option<super::ModelReport>,
}
