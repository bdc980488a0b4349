//! What everybody in a simulation shares: what is known of it, and what went wrong.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

use crate::net::Wire;

pub struct World {
    pub begun: Instant,
    /// Until then connections are cut and hosts go down.
    pub chaos: Duration,
    tracing: bool,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub faults: Vec<String>,
    pub counts: Counts,
    pub runs: Vec<Run>,
    pub requests: Vec<Asked>,
    /// The last id of each client, with its owner and its stream.
    pub known: BTreeMap<usize, (usize, usize, String)>,
    /// Of each stream of the layer, the last event that any client has.
    pub heads: BTreeMap<String, u64>,
    /// What the gateway runs.
    pub gateway: Vec<AbortHandle>,
}

/// How often it came to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    pub open_sockets: i64,
    pub layer_tasks: i64,
    /// Those that are there now.
    pub second_readers: i64,
    pub opened: u64,
    pub ended: u64,
    pub dropped: u64,
    pub events: u64,
    pub requests: u64,
    pub resumed: u64,
    pub asked: u64,
    pub asked_to_go_on: u64,
    pub breaks: u64,
    pub upstream_cuts: u64,
    pub clean_ends: u64,
    pub restarts: u64,
    pub crashes: u64,
    pub evicted: u64,
    pub unknown: u64,
    pub failed: u64,
    pub statuses: u64,
    pub done: u64,
    pub thieves: u64,
    pub mirrors: u64,
}

/// One stream of the upstream, from its first event to its last, in however many answers.
#[derive(Clone, Debug)]
pub struct Run {
    pub stream: usize,
    pub owner: usize,
    pub family: usize,
    /// How many events were sent.
    pub sent: usize,
    /// A client has got some.
    pub seen: bool,
    /// Answers that were begun.
    pub answers: Vec<Sending>,
    /// An answer ended as it should.
    pub ended_cleanly: bool,
    /// An answer ended as it should, but inside an event.
    pub truncated: bool,
    /// The request that opened it was a `GET`.
    pub by_get: bool,
    /// An answer was cut, or let go of.
    pub broken: bool,
    /// The upstream knows no more of it.
    pub forgotten: bool,
}

/// An answer of the upstream.
#[derive(Clone)]
pub struct Sending {
    /// The client's request that it answers.
    pub request: usize,
    pub wire: Arc<Wire>,
    /// Its head is at the gateway.
    pub begun: bool,
    pub over: bool,
}

impl Sending {
    pub fn is_over(&self) -> bool {
        self.over || self.wire.is_dead()
    }

    pub fn is_under_way(&self) -> bool {
        self.begun && !self.is_over()
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").field("over", &self.over).finish()
    }
}

/// A request of a client's.
#[derive(Clone, Debug)]
pub struct Asked {
    pub family: usize,
    pub owner: usize,
    pub stream: usize,
    pub is_get: bool,
    pub has_id: bool,
    /// The last event that the client has.
    pub after: Option<(usize, usize)>,
    /// There was more in its stream than it had.
    pub is_behind: bool,
    /// Answers that clients were getting when it was sent, for the same owner and stream: of which run, and the how manieth.
    pub under_way: Vec<(usize, usize)>,
    /// How often the upstream was asked for it.
    pub upstream: usize,
    pub is_thief: bool,
}

impl World {
    pub fn new(chaos: Duration, tracing: bool) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            chaos,
            tracing,
            state: Mutex::default(),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.state().counts);
    }

    pub fn is_chaotic(&self) -> bool {
        self.begun.elapsed() < self.chaos
    }

    /// Tells what happens, for who wants to know how it came to a fault.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>10.3} {}", self.begun.elapsed().as_secs_f64(), what());
        }
    }

    pub fn fault(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(|| format!("FAULT {what}"));
        let at = self.begun.elapsed().as_secs_f64();
        self.state().faults.push(format!("{what} (at {at:.3} s)"));
    }

    /// The gateway has the head of an answer.
    pub fn handle_head(&self, request: usize) {
        self.note(|| format!("the gateway has the head of the answer to request {request}"));
        let mut state = self.state();
        let answers = state.runs.iter_mut().flat_map(|run| &mut run.answers);
        for answer in answers.filter(|answer| answer.request == request) {
            answer.begun = true;
        }
    }

    /// A panic in a task is a fault.
    pub fn spawn<F>(self: &Arc<Self>, what: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let world = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
                world.fault(format!("{what} panicked: {}", why.unwrap_or_default()));
            }
        })
    }

    /// A task that a crash of the gateway ends.
    pub fn spawn_in_gateway<F>(self: &Arc<Self>, what: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.spawn(what, task).abort_handle();
        let mut state = self.state();
        state.gateway.retain(|task| !task.is_finished());
        state.gateway.push(task);
    }
}
