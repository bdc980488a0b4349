//! How far the upstream has got: where to go on from with another answer of it.

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
};

/// Tells by an event that all of its stream was sent.
pub(crate) type Completes = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

/// What is remembered of ids, to tell an event that comes again.
const IDS_REMEMBERED: usize = 256;

/// The state of a stream as far as its upstream goes.
#[derive(Default)]
pub(crate) struct UpstreamProgress {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last id that was accepted into the chain.
    last_id: Option<String>,
    /// The last id that came out of it and is kept.
    committed: Option<String>,
    /// The chain waits for another answer.
    waits: bool,
    retry: Option<Duration>,
    complete: bool,
    /// Events since the answer began.
    events: u64,
    seen: Seen,
    /// Another answer has begun, and it is not known yet where.
    begins: bool,
    /// What comes is what came before, up to the last id.
    repeats: bool,
}

/// Events with ids. An upstream may give the same ids to other events when it is asked again, by counting anew, and those are not to
/// be taken for what was there before.
#[derive(Clone, Default)]
struct Seen {
    hasher: RandomState,
    first: Option<Trace>,
    recent: VecDeque<Trace>,
}

/// The hash of an event's id, and that of all of it.
#[derive(Clone, Copy)]
struct Trace {
    id: u32,
    all: u32,
}

impl UpstreamProgress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id after which the upstream is to go on, if it gave any, did not take it back (an empty one; WHATWG HTML 9.2.6), and did
    /// not say that it was done. With a chain that waits it is the last that went in; a new chain has to see again what the old
    /// one held.
    pub(crate) fn last_id(&self) -> Option<String> {
        let state = self.lock();
        let id = if state.waits {
            &state.last_id
        } else {
            &state.committed
        };
        id.clone().filter(|_| !state.complete)
    }

    /// The answer is over. Whether the chain waits for another one: if the upstream can be asked to go on.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.lock();
        state.waits = state.last_id.is_some() && !state.complete;
        state.waits
    }

    /// Nothing more is wanted of the upstream.
    pub(crate) fn complete(&self) {
        self.lock().complete = true;
    }

    /// Whether the upstream has said that it was done, or nothing more is wanted of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// Whether something has gone into the chain and has not come out of it: it is held, or was dropped.
    pub(crate) fn is_held_back(&self) -> bool {
        let state = self.lock();
        state.last_id != state.committed
    }

    /// The memory, in bytes, of the ids that are remembered.
    pub(crate) fn memory(&self) -> usize {
        let state = self.lock();
        let ids = [&state.last_id, &state.committed];
        let ids = ids.into_iter().flatten().map(String::capacity);
        state.seen.recent.capacity() * size_of::<Trace>() + ids.sum::<usize>()
    }

    /// Gives back spare memory: no more ids come.
    pub(crate) fn shrink(&self) {
        self.lock().seen.recent.shrink_to_fit();
    }

    /// The chain waits no more.
    pub(crate) fn give_up(&self) {
        self.lock().waits = false;
    }

    /// What the upstream gave this id is kept.
    pub(crate) fn commit(&self, id: String) {
        self.lock().committed = Some(id).filter(|id| !id.is_empty());
    }

    /// That of a stream which goes on, with a chain of its own, after what has come out of this one.
    pub(crate) fn followed(&self) -> Self {
        let state = self.lock();
        let Some(committed) = &state.committed else {
            return Self::default();
        };
        let state = State {
            last_id: state.committed.clone(),
            committed: state.committed.clone(),
            seen: state.seen.up_to(committed),
            begins: true,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// How long the upstream wants its clients to wait.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.lock().retry
    }

    /// Whether events have come since the answer began.
    pub(crate) fn is_healthy(&self) -> bool {
        self.lock().events > 0
    }

    /// What comes from now on is of another answer.
    pub(crate) fn begin_again(&self) {
        let mut state = self.lock();
        state.waits = false;
        state.begins = true;
        state.repeats = false;
        state.events = 0;
    }
}

impl State {
    /// Whether this block is new.
    fn accept(&mut self, block: &Block) -> bool {
        if let Some(retry) = block.retry() {
            self.retry = Some(retry);
        }
        if !block.is_terminated() {
            return !self.repeats;
        }
        let Some(id) = block.id() else {
            return !self.repeats || !(block.is_event());
        };
        let is_last = self.last_id.as_deref() == Some(&*id);
        if std::mem::take(&mut self.begins) {
            self.repeats = self.seen.is_known(&id, block) == Some(true);
        } else if self.repeats {
            self.repeats = self.seen.is_known(&id, block) != Some(false);
        }
        if self.repeats {
            self.repeats = !is_last;
            return false;
        }
        self.seen.insert(&id, block);
        self.last_id = (!id.is_empty()).then(|| id.into_owned());
        true
    }
}

impl Seen {
    /// Whether the event with this id was this one, if there is one that is remembered.
    fn is_known(&self, id: &str, block: &Block) -> Option<bool> {
        let trace = self.trace(id, block);
        let mut known = self.recent.iter().rev().chain(&self.first);
        let known = known.find(|known| known.id == trace.id)?;
        Some(known.all == trace.all)
    }

    /// Without what came after this id, and without all but the first if it is not remembered.
    fn up_to(&self, id: &str) -> Self {
        let id = self.hasher.hash_one(id) as u32;
        let last = self.recent.iter().rposition(|known| known.id == id);
        let mut seen = self.clone();
        seen.recent.truncate(last.map_or(0, |last| last + 1));
        seen
    }

    fn insert(&mut self, id: &str, block: &Block) {
        let trace = self.trace(id, block);
        self.first.get_or_insert(trace);
        if self.recent.len() == IDS_REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(trace);
    }

    fn trace(&self, id: &str, block: &Block) -> Trace {
        // The LF of a last CRLF may come late, and then it is not there.
        let all = block.as_bytes().trim_ascii_end();
        Trace {
            id: self.hasher.hash_one(id) as u32,
            all: self.hasher.hash_one(all) as u32,
        }
    }
}

/// The first stage of a stream that may go on with another answer.
pub(crate) struct ProgressStage {
    progress: Arc<UpstreamProgress>,
    completion: Option<Completes>,
}

impl ProgressStage {
    pub(crate) fn new(progress: Arc<UpstreamProgress>, completion: Option<Completes>) -> Self {
        Self {
            progress,
            completion,
        }
    }
}

impl Interceptor for ProgressStage {
    fn event(&mut self, event: Event) -> Verdict {
        let completes = self
            .completion
            .as_ref()
            .is_some_and(|completes| completes(&event));
        let mut state = self.progress.lock();
        // What was cut off is sent again by an upstream that can go on. By one that cannot, it is all there is.
        state.complete |= completes && (event.is_terminated() || state.last_id.is_none());
        let is_new = state.accept(&event);
        state.events += u64::from(is_new);
        is_new.then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.progress.lock().accept(&block).then_some(block).into()
    }
}

impl fmt::Debug for UpstreamProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}
