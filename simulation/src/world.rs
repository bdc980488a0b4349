//! The state that all parts of a simulation share: what they have done, and the violated expectations.

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
    /// The duration of the first phase, in which connections break and hosts stop.
    pub chaos: Duration,
    tracing: bool,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub faults: Vec<String>,
    pub counts: Counts,
    pub runs: Vec<Run>,
    pub requests: Vec<ClientRequest>,
    /// The last id of each client, with its owner and its stream.
    pub known: BTreeMap<usize, (usize, usize, String)>,
    /// For each stream of the layer, the number of the newest event that any client has.
    pub heads: BTreeMap<String, u64>,
    /// The tasks of the gateway.
    pub gateway: Vec<AbortHandle>,
}

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    pub open_sockets: i64,
    pub layer_tasks: i64,
    /// The open ones, not all that were ever opened.
    pub second_readers: i64,
    pub opened: u64,
    pub ended: u64,
    pub dropped: u64,
    pub events: u64,
    pub requests: u64,
    pub resumed: u64,
    pub upstream_requests: u64,
    pub upstream_resumes: u64,
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

/// One stream of the upstream, from its first event to its last, in one or more responses.
#[derive(Clone, Debug)]
pub struct Run {
    pub stream: usize,
    pub owner: usize,
    pub family: usize,
    /// The number of events sent.
    pub sent: usize,
    /// Whether a client has an event of it.
    pub seen: bool,
    /// The responses that the upstream has started.
    pub answers: Vec<UpstreamAnswer>,
    /// Whether a response ended cleanly.
    pub ended_cleanly: bool,
    /// Whether a response ended cleanly, but inside an event.
    pub truncated: bool,
    /// Whether it was opened with a `GET`.
    pub by_get: bool,
    /// Whether a response was cut or dropped.
    pub broken: bool,
    /// Whether the upstream has lost its state of the stream.
    pub forgotten: bool,
}

/// A response of the upstream.
#[derive(Clone)]
pub struct UpstreamAnswer {
    /// The client's request that caused it.
    pub request: usize,
    pub wire: Arc<Wire>,
    /// Whether the gateway has received its head.
    pub has_head: bool,
    pub ended: bool,
}

impl UpstreamAnswer {
    pub fn has_ended(&self) -> bool {
        self.ended || self.wire.is_dead()
    }

    pub fn is_active(&self) -> bool {
        self.has_head && !self.has_ended()
    }
}

impl std::fmt::Debug for UpstreamAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamAnswer")
            .field("ended", &self.ended)
            .finish()
    }
}

/// A request of a client.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    pub family: usize,
    pub owner: usize,
    pub stream: usize,
    pub is_get: bool,
    pub has_id: bool,
    /// The run and the number of the client's last event.
    pub after: Option<(usize, usize)>,
    /// Whether another client has later events of the same stream.
    pub is_behind: bool,
    /// Run and index of the responses that other clients of the same owner and stream were reading when it was sent.
    pub active_answers: Vec<(usize, usize)>,
    /// The number of its requests to the upstream.
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

    /// Prints what happens, for the analysis of a fault.
    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>10.3} {}", self.begun.elapsed().as_secs_f64(), text());
        }
    }

    pub fn fault(&self, text: impl Into<String>) {
        let text = text.into();
        self.note(|| format!("FAULT {text}"));
        let at = self.begun.elapsed().as_secs_f64();
        self.state().faults.push(format!("{text} (at {at:.3} s)"));
    }

    /// Marks the response to this request as started: the gateway has its head.
    pub fn handle_head(&self, request: usize) {
        self.note(|| format!("the gateway has the head of the answer to request {request}"));
        let mut state = self.state();
        let answers = state.runs.iter_mut().flat_map(|run| &mut run.answers);
        for answer in answers.filter(|answer| answer.request == request) {
            answer.has_head = true;
        }
    }

    /// Spawns a task. A panic in it is a fault.
    pub fn spawn<F>(self: &Arc<Self>, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let world = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
                world.fault(format!("{name} panicked: {}", why.unwrap_or_default()));
            }
        })
    }

    /// Spawns a task that ends when the gateway crashes.
    pub fn spawn_in_gateway<F>(self: &Arc<Self>, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.spawn(name, task).abort_handle();
        let mut state = self.state();
        state.gateway.retain(|task| !task.is_finished());
        state.gateway.push(task);
    }
}
