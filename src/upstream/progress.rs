//! The progress of an upstream through its stream: the id to resume after, and the events that a continuation repeats.

use std::{
    collections::{VecDeque, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    codec::{Block, Event},
    intercept::{Interceptor, Verdict},
    upstream::phase::{Input, Phase, Recollection},
};

/// Decides whether an event completes its stream.
pub(crate) type CompleteWhen = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

/// The number of recent events that are remembered to detect duplicates.
const REMEMBERED_EVENTS: usize = 256;

/// The progress of an upstream through one stream, shared by the [first stage](ProgressStage) of its interceptors and by the code
/// that asks for continuations.
#[derive(Default)]
pub(crate) struct UpstreamProgress {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// The id of the last event that the interceptors have received.
    last_id: Option<String>,
    /// The id of the last logged event: the interceptors have forwarded it, and the log has it.
    logged: Option<String>,
    /// The reconnection time that the upstream has sent last.
    retry: Option<Duration>,
    /// The upstream has sent the terminal event of its stream, or needs to send nothing more. Does not depend on the phase: blocks
    /// after the terminal event are compared like all others.
    complete: bool,
    /// Events of the present response that are not duplicates.
    new_events: u64,
    seen: SeenEvents,
}

/// Hashes of the events with ids that the interceptors have received: the first one, and the [most recent](REMEMBERED_EVENTS).
///
/// The hash of the whole event is there because an upstream may number its events anew in each response. Such an event has a known
/// id, but is no duplicate.
#[derive(Clone, Default)]
struct SeenEvents {
    hasher: RandomState,
    first: Option<EventHash>,
    recent: VecDeque<EventHash>,
}

#[derive(Clone, Copy)]
struct EventHash {
    id: u32,
    bytes: u32,
}

impl UpstreamProgress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id with which the upstream can be asked to continue the stream.
    ///
    /// While the interceptors wait for the continuation this is the id of the last event that they received. Otherwise the
    /// continuation gets new interceptors, which have to see the events that the old ones held back, so this is the id of the last
    /// logged event. `None` if the stream is complete, or if the last event has no id or an empty one (WHATWG HTML 9.2.6).
    pub(crate) fn last_id(&self) -> Option<String> {
        let state = self.lock();
        let id = match state.phase {
            Phase::AwaitingContinuation => &state.last_id,
            _ => &state.logged,
        };
        id.clone().filter(|_| !state.complete)
    }

    /// Handles the end of a response: suspends the stream until a continuation begins. Returns `false` and changes nothing if the
    /// stream is complete or has no id to resume after.
    pub(crate) fn suspend(&self) -> bool {
        let mut state = self.lock();
        let can_continue = state.last_id.is_some() && !state.complete;
        if can_continue {
            state.phase = state.phase.next(Input::Suspend);
        }
        can_continue
    }

    /// Ends the wait of the interceptors for a continuation.
    pub(crate) fn stop_waiting(&self) {
        let mut state = self.lock();
        state.phase = state.phase.next(Input::End);
    }

    /// Handles the head of a continuation: the blocks that follow belong to it.
    pub(crate) fn begin_continuation(&self) {
        let mut state = self.lock();
        state.phase = state.phase.next(Input::Continue);
        state.new_events = 0;
    }

    /// Marks the stream as complete: the upstream is not asked for a continuation.
    pub(crate) fn complete(&self) {
        self.lock().complete = true;
    }

    /// Whether the upstream has sent the terminal event of its stream, or the stream was [marked](Self::complete) as complete.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// Whether the interceptors hold or have dropped events after the last logged one.
    pub(crate) fn has_unlogged_events(&self) -> bool {
        let state = self.lock();
        state.last_id != state.logged
    }

    /// Sets the id of the last logged event. An empty id removes it.
    pub(crate) fn set_logged(&self, id: String) {
        self.lock().logged = Some(id).filter(|id| !id.is_empty());
    }

    /// The progress at the start of a successor: a stream with new interceptors that continues after the last logged event.
    pub(crate) fn successor(&self) -> Self {
        let state = self.lock();
        let Some(logged) = &state.logged else {
            return Self::default();
        };
        let state = State {
            phase: Phase::AwaitingFirstId,
            last_id: state.logged.clone(),
            logged: state.logged.clone(),
            seen: state.seen.up_to(logged),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// The reconnection time that the upstream has sent last (`retry`, WHATWG HTML 9.2.6).
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.lock().retry
    }

    /// Whether the present response has delivered an event that is not a duplicate.
    pub(crate) fn has_new_events(&self) -> bool {
        self.lock().new_events > 0
    }

    /// The heap memory of the remembered ids and hashes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let state = self.lock();
        let ids = [&state.last_id, &state.logged];
        let ids = ids.into_iter().flatten().map(String::capacity);
        state.seen.recent.capacity() * size_of::<EventHash>() + ids.sum::<usize>()
    }

    /// Frees spare memory. For a stream that receives no more events.
    pub(crate) fn shrink(&self) {
        self.lock().seen.recent.shrink_to_fit();
    }
}

impl State {
    /// Handles the next block of the upstream. Returns whether it is new: duplicates are dropped, except comments and fields
    /// without an event.
    fn handle_block(&mut self, block: &Block) -> bool {
        if let Some(retry) = block.retry() {
            self.retry = Some(retry);
        }
        let is_skipping = self.phase == Phase::SkippingDuplicates;
        if !block.is_terminated() {
            return !is_skipping;
        }
        let Some(id) = block.id() else {
            return !(is_skipping && block.is_event());
        };
        if self.phase.compares_ids() {
            let recollection = self.seen.recollect(&id, block);
            let is_last = self.last_id.as_deref() == Some(&*id);
            let is_duplicate = self.phase.is_duplicate(recollection);
            self.phase = self.phase.next(Input::Id {
                recollection,
                is_last,
            });
            if is_duplicate {
                return false;
            }
        }
        self.seen.insert(&id, block);
        self.last_id = (!id.is_empty()).then(|| id.into_owned());
        true
    }
}

impl SeenEvents {
    /// Compares a block with the remembered event of the same id.
    fn recollect(&self, id: &str, block: &Block) -> Recollection {
        let hash = self.hash(id, block);
        let mut known = self.recent.iter().rev().chain(&self.first);
        match known.find(|known| known.id == hash.id) {
            None => Recollection::Unknown,
            Some(known) if known.bytes == hash.bytes => Recollection::Same,
            Some(_) => Recollection::Different,
        }
    }

    /// A copy without the events after this id. If the id is not remembered, the copy has the first event only.
    fn up_to(&self, id: &str) -> Self {
        let id = self.hasher.hash_one(id) as u32;
        let last = self.recent.iter().rposition(|known| known.id == id);
        let mut seen = self.clone();
        seen.recent.truncate(last.map_or(0, |last| last + 1));
        seen
    }

    fn insert(&mut self, id: &str, block: &Block) {
        let hash = self.hash(id, block);
        self.first.get_or_insert(hash);
        if self.recent.len() == REMEMBERED_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(hash);
    }

    fn hash(&self, id: &str, block: &Block) -> EventHash {
        // A block whose last CRLF was split between two chunks lacks the LF.
        let bytes = block.as_bytes().trim_ascii_end();
        EventHash {
            id: self.hasher.hash_one(id) as u32,
            bytes: self.hasher.hash_one(bytes) as u32,
        }
    }
}

/// The first stage of a stream that can be continued: records its progress, and drops the duplicates in a continuation.
pub(crate) struct ProgressStage {
    progress: Arc<UpstreamProgress>,
    completes: Option<CompleteWhen>,
}

impl ProgressStage {
    /// A stage that records in `progress`. An event for which `completes` returns `true` marks the stream as complete.
    pub(crate) fn new(progress: Arc<UpstreamProgress>, completes: Option<CompleteWhen>) -> Self {
        Self {
            progress,
            completes,
        }
    }
}

impl Interceptor for ProgressStage {
    fn event(&mut self, event: Event) -> Verdict {
        let completes = self
            .completes
            .as_ref()
            .is_some_and(|completes| completes(&event));
        let mut state = self.progress.lock();
        // A continuation repeats a terminal event that was cut off. Without ids there is no continuation, so the fragment counts.
        state.complete |= completes && (event.is_terminated() || state.last_id.is_none());
        let is_new = state.handle_block(&event);
        state.new_events += u64::from(is_new);
        is_new.then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.progress
            .lock()
            .handle_block(&block)
            .then_some(block)
            .into()
    }
}

impl fmt::Debug for UpstreamProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamProgress").finish_non_exhaustive()
    }
}
