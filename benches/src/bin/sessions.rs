//! Measures the cost of looking up and binding a session.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin sessions
//! ```
//!
//! The argument is the number of rounds.
//!
//! `call` calls the store directly; `oneshot` clones the store and calls the clone once; `boxed` does the same with a boxed store, as
//! the layer does.

use std::{cell::Cell, env, hint::black_box, num::ParseIntError};

use futures_util::FutureExt;
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};
use tower_sse_proxy::session::{
    MemoryStore, NewSession, Owner, SealedKey, SealedStore, Session, SessionId, SessionRequest,
    SessionStore, UpstreamSessionId,
};
use tower_sse_proxy_benches::rounds::nanos;

/// The number of requests in each round.
const REQUESTS: usize = 10_000;

type Boxed = BoxCloneSyncService<SessionRequest, Option<Session>, BoxError>;

fn main() -> Result<(), ParseIntError> {
    let rounds = env::args().nth(1).map_or(Ok(21), |rounds| rounds.parse())?;
    println!(
        "{:44}{:>10}{:>10}{:>10}{:>10}",
        "ns per request", "call", "oneshot", "boxed", "goal"
    );

    let memory = MemoryStore::default();
    let one = vec![bind(&memory, new("one"))];
    let lookups = Requests::of(one, SessionRequest::Lookup);
    lookups.measure("memory: lookup, 1 session", &memory, rounds, Some(300));

    let sessions = (0..10_000)
        .map(|n| bind(&memory, new(&format!("upstream-{n}"))))
        .collect();
    let lookups = Requests::of(scattered(sessions), SessionRequest::Lookup);
    lookups.measure(
        "memory: lookup, 10,000 sessions",
        &memory,
        rounds,
        Some(300),
    );
    let unknown = (0..REQUESTS).map(|_| SessionId::random()).collect();
    let lookups = Requests::of(unknown, SessionRequest::Lookup);
    lookups.measure("memory: lookup of an unknown id", &memory, rounds, None);
    let binds = (0..REQUESTS).map(|n| new(&format!("again-{n}"))).collect();
    Requests::of(binds, SessionRequest::Bind).measure(
        "memory: bind a bound upstream id",
        &memory,
        rounds,
        None,
    );
    Fresh::default().measure("memory: bind, full of 10,000 sessions", &memory, rounds);

    let sealed = SealedStore::new(SealedKey::generate());
    let lookup = |name: &str, store: &SealedStore, upstream_id: &str, goal| {
        let ids = (0..REQUESTS)
            .map(|_| bind(&sealed, new(upstream_id)))
            .collect();
        Requests::of(ids, SessionRequest::Lookup).measure(name, store, rounds, goal);
    };
    let uuid = "2d1c6a3e-0b5f-4a7e-9c51-6f1f0a4f7b11";
    lookup(
        "sealed: open, upstream id of 36 bytes",
        &sealed,
        uuid,
        Some(2_000),
    );
    lookup(
        "sealed: open, longest upstream id",
        &sealed,
        &"x".repeat(682),
        Some(2_000),
    );
    let other_key = SealedStore::new(SealedKey::generate());
    lookup(
        "sealed: token of another key, 36 bytes",
        &other_key,
        uuid,
        Some(2_000),
    );
    for _ in 0..10_000 {
        ask(
            &sealed,
            SessionRequest::Remove(bind(&sealed, new("removed"))),
        );
    }
    lookup("sealed: open, 10,000 removed", &sealed, uuid, Some(2_000));
    let rotated = sealed.clone().decryption_key(SealedKey::generate());
    lookup("sealed: open, 2 keys", &rotated, uuid, Some(2_000));
    Fresh::default().measure("sealed: bind, 36 bytes", &sealed, rounds);
    Ok(())
}

/// The same requests in each round.
struct Requests(Vec<SessionRequest>);

impl Requests {
    fn of<T: Clone>(items: Vec<T>, request: fn(T) -> SessionRequest) -> Self {
        Self(
            items
                .into_iter()
                .cycle()
                .take(REQUESTS)
                .map(request)
                .collect(),
        )
    }

    fn measure(&self, name: &str, store: &impl SessionStore, rounds: usize, goal: Option<u32>) {
        measure(name, store, rounds, goal, |n| self.0[n].clone());
    }
}

/// Binds a new upstream id in each request.
#[derive(Default)]
struct Fresh(Cell<u64>);

impl Fresh {
    fn measure(&self, name: &str, store: &impl SessionStore, rounds: usize) {
        measure(name, store, rounds, None, |_| {
            self.0.set(self.0.get() + 1);
            SessionRequest::Bind(new(&format!("{:036}", self.0.get())))
        });
    }
}

fn measure(
    name: &str,
    store: &impl SessionStore,
    rounds: usize,
    goal: Option<u32>,
    request: impl Fn(usize) -> SessionRequest,
) {
    let boxed: Boxed = BoxCloneSyncService::new(store.clone().map_err(Into::into));
    let call = || {
        let mut store = store.clone();
        (0..REQUESTS).for_each(|n| {
            black_box(store.call(request(n)).now_or_never());
        });
    };
    let oneshot = || (0..REQUESTS).for_each(|n| drop(black_box(ask(store, request(n)))));
    let boxed_oneshot = || (0..REQUESTS).for_each(|n| drop(black_box(ask(&boxed, request(n)))));
    // The cost of building the requests is subtracted from the results.
    let build_only = || (0..REQUESTS).for_each(|n| drop(black_box(request(n))));
    let [building, times @ ..] = &nanos(
        &[
            ("", &build_only as &dyn Fn()),
            ("", &call),
            ("", &oneshot),
            ("", &boxed_oneshot),
        ],
        rounds,
    )[..] else {
        unreachable!("one time for each contender")
    };
    print!("{name:44}");
    times
        .iter()
        .for_each(|time| print!("{:>10.0}", (time - building) / REQUESTS as f64));
    println!(
        "{:>10}",
        goal.map_or("-".to_owned(), |goal| goal.to_string())
    );
}

fn ask(store: &impl SessionStore, request: SessionRequest) -> Option<Session> {
    let answer = store.clone().oneshot(request).now_or_never();
    let answer = answer.expect("in-process stores answer without waiting");
    answer.unwrap_or_else(|error| panic!("{}", error.into()))
}

fn bind(store: &impl SessionStore, new: NewSession) -> SessionId {
    let session = ask(store, SessionRequest::Bind(new));
    session.expect("bind returns a session").id
}

fn new(upstream_id: &str) -> NewSession {
    NewSession::new(
        UpstreamSessionId::new(upstream_id),
        Owner::from_bytes([7; 32]),
    )
}

/// The sessions in an order that differs from their order in memory.
fn scattered(sessions: Vec<SessionId>) -> Vec<SessionId> {
    let step = 7_919;
    (0..sessions.len())
        .map(|n| sessions[n * step % sessions.len()].clone())
        .collect()
}
