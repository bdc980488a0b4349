//! `MemoryStore`: limits, expiry and eviction.

use std::{thread, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;
use tower::Service;
use tower_sse_proxy::session::{
    MemoryStore, NewSession, Owner, Session, SessionId, SessionRequest, UpstreamKey,
    UpstreamSessionId,
};

fn call(store: &MemoryStore, request: SessionRequest) -> Option<Session> {
    store.clone().call(request).into_inner().unwrap()
}

fn bind(store: &MemoryStore, upstream_id: impl ToString) -> Session {
    let upstream_id = UpstreamSessionId::new(upstream_id.to_string());
    let new = NewSession::new(upstream_id, Owner::ANONYMOUS);
    call(store, SessionRequest::Bind(new)).unwrap()
}

fn is_known(store: &MemoryStore, session: &Session) -> bool {
    call(store, SessionRequest::Lookup(session.id.clone())).is_some()
}

#[test]
fn store_works_without_a_runtime() {
    let store = MemoryStore::default();
    let session = bind(&store, "u");
    assert!(is_known(&store, &session));
}

#[test]
fn r49_max_sessions_is_exact_and_the_most_idle_sessions_are_evicted_first() {
    let store = MemoryStore::default()
        .max_sessions(1_000)
        .max_sessions_per_owner(1_000);
    let first: Vec<_> = (0..1_000).map(|n| bind(&store, n)).collect();
    assert!(first[..100].iter().all(|session| is_known(&store, session)));
    // The 100 sessions that were looked up above are evicted last.
    let more: Vec<_> = (1_000..1_900).map(|n| bind(&store, n)).collect();
    let known = |sessions: &[Session]| sessions.iter().filter(|s| is_known(&store, s)).count();
    assert_eq!(
        (known(&first[..100]), known(&first[100..]), known(&more)),
        (100, 0, 900)
    );
    bind(&store, "one more");
    let left: usize = known(&first[..100]) + known(&more);
    assert_eq!(left, 999);
}

#[test]
fn r49_abandoned_sessions_are_evicted() {
    let store = MemoryStore::default().max_sessions_per_owner(3_000);
    let sessions: Vec<_> = (0..100_000).map(|n| bind(&store, n)).collect();
    let (evicted, last) = sessions.split_at(97_000);
    assert!(last.iter().all(|session| is_known(&store, session)));
    assert!(!evicted.iter().any(|session| is_known(&store, session)));
}

#[test]
fn r49_max_sessions_holds_for_concurrent_binds() {
    let store = MemoryStore::default()
        .max_sessions(50)
        .max_sessions_per_owner(50);
    let sessions = thread::scope(|scope| {
        let work = |n: usize| {
            let store = &store;
            scope.spawn(move || {
                let bound = (0..2_000).map(|m| bind(store, format!("{n}-{m}")));
                bound.collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..4).map(work).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    let entries = sessions
        .iter()
        .filter(|session| is_known(&store, session))
        .count();
    assert_eq!(entries, 50);
}

#[test]
fn concurrent_binds_of_one_session_return_one_id() {
    let store = MemoryStore::default();
    for n in 0..200 {
        let ids = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| bind(&store, n).id));
            threads.map(|thread| thread.join().unwrap())
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }
}

#[test]
fn ids_are_random_and_too_long_ids_are_unknown() {
    let store = MemoryStore::default();
    let session = bind(&store, "u");
    assert_eq!(session.id.as_str().len(), 48);
    for digits in [80, 81, 976] {
        let id = SessionId::parse(&format!("{}{}", session.id.as_str(), "0".repeat(digits)));
        assert!(call(&store, SessionRequest::Lookup(id.unwrap())).is_none());
    }
    // The first digit selects the shard. All other digits are random.
    let ids: Vec<_> = (0..256).map(|n| bind(&store, n).id).collect();
    for place in 1..48 {
        let mut seen: Vec<_> = ids.iter().map(|id| id.as_str().as_bytes()[place]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= 12, "place {place} has {} values", seen.len());
    }
}

#[test]
fn upstream_id_and_key_are_limited_in_length() {
    let store = MemoryStore::default();
    let max_sessions = MemoryStore::MAX_UPSTREAM_LEN;
    let mut new = NewSession::new(
        UpstreamSessionId::new("x".repeat(max_sessions - 1)),
        Owner::ANONYMOUS,
    );
    new.upstream = Some(UpstreamKey::new("k"));
    assert!(call(&store, SessionRequest::Bind(new.clone())).is_some());
    new.upstream = Some(UpstreamKey::new("kk"));
    assert!(call(&store, SessionRequest::Bind(new)).is_none());
}

#[tokio::test(start_paused = true)]
async fn session_has_its_idle_timeout_and_times() {
    let idle = Duration::from_secs(600);
    let store = MemoryStore::default().idle_timeout(idle);
    let session = bind(&store, "u");
    assert_eq!(session.idle_timeout, Some(idle));
    assert_eq!(session.created, session.last_seen);
    tokio::time::advance(Duration::from_secs(77)).await;
    let found = call(&store, SessionRequest::Lookup(session.id)).unwrap();
    assert_eq!(found.created, session.created);
    assert_eq!(found.last_seen, session.created + Duration::from_secs(77));
}

#[tokio::test(start_paused = true)]
async fn r44_busy_session_ends_at_max_age() {
    let store = MemoryStore::default();
    let session = bind(&store, "u");
    for _ in 0..95 {
        tokio::time::advance(Duration::from_secs(15 * 60)).await;
        assert!(is_known(&store, &session));
    }
    tokio::time::advance(Duration::from_secs(15 * 60)).await;
    assert!(!is_known(&store, &session));
    let store = store.max_age(Duration::MAX).idle_timeout(Duration::MAX);
    let session = bind(&store, "u");
    tokio::time::advance(Duration::from_secs(1_000_000_000)).await;
    assert!(is_known(&store, &session));
}

#[derive(Clone, Debug)]
enum Step {
    Bind(u8),
    Lookup(usize),
    Touch(usize),
    Remove(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..18u8).prop_map(Step::Bind),
        3 => (0..40usize).prop_map(Step::Lookup),
        2 => (0..40usize).prop_map(Step::Touch),
        1 => (0..40usize).prop_map(Step::Remove),
        3 => (1..60u64).prop_map(Step::Pass),
    ]
}

/// Returns one of 18 sessions, so that some are bound again: three owners, two upstream keys, three upstream ids.
fn new_session(n: u8) -> NewSession {
    let mut new = NewSession::new(
        UpstreamSessionId::new(format!("u{}", n % 3)),
        Owner::from_bytes([n / 6; 32]),
    );
    new.upstream = (n / 3).is_multiple_of(2).then(|| UpstreamKey::new("k"));
    new
}

const IDLE: Duration = Duration::from_secs(100);
const AGE: Duration = Duration::from_secs(250);

/// A list that does what the store should do.
struct Model {
    max_sessions: usize,
    entries: Vec<Entry>,
}

struct Entry {
    id: SessionId,
    new: NewSession,
    bound: Instant,
    used: Instant,
}

impl Model {
    fn expire(&mut self, now: Instant) {
        self.entries
            .retain(|entry| now - entry.used < IDLE && now - entry.bound < AGE);
    }

    fn find(&mut self, id: &SessionId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == *id)
    }

    fn count(&self, owner: Owner) -> usize {
        let owned = self.entries.iter().filter(|entry| entry.new.owner == owner);
        owned.count()
    }

    /// Makes room for a session of this owner. Returns whether there is room.
    fn make_room(&mut self, owner: Owner) -> bool {
        let own = self.count(owner);
        let mut candidates = Vec::new();
        if own < (self.max_sessions / 2).max(1) {
            if self.entries.len() < self.max_sessions {
                return true;
            }
            let mut owners: Vec<_> = self.entries.iter().map(|entry| entry.new.owner).collect();
            owners.sort_unstable();
            owners.dedup();
            owners.retain(|other| self.count(*other) >= own + 2);
            owners.sort_by_key(|other| std::cmp::Reverse(self.count(*other)));
            candidates = owners;
        }
        candidates.push(owner);
        let victim = candidates[0];
        self.entries.sort_by_key(|entry| entry.used);
        let oldest = self
            .entries
            .iter()
            .position(|entry| entry.new.owner == victim);
        oldest.map(|oldest| self.entries.remove(oldest)).is_some()
    }

    fn insert(&mut self, id: SessionId, new: NewSession, now: Instant) {
        let entry = Entry {
            id,
            new,
            bound: now,
            used: now,
        };
        self.entries.push(entry);
    }
}

fn matches_session(session: &Session, new: &NewSession) -> bool {
    session.upstream_id == new.upstream_id
        && session.upstream == new.upstream
        && session.owner == new.owner
}

async fn run(max_sessions: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = MemoryStore::default()
        .max_sessions(max_sessions)
        .idle_timeout(IDLE)
        .max_age(AGE);
    let mut model = Model {
        max_sessions,
        entries: Vec::new(),
    };
    let mut ids: Vec<SessionId> = Vec::new();
    for step in steps {
        // Each step has a different time, so that the order of eviction is defined.
        tokio::time::advance(Duration::from_millis(1)).await;
        let now = Instant::now();
        model.expire(now);
        let id = |n: usize| ids.get(n % ids.len().max(1)).cloned();
        let request = match step {
            Step::Pass(seconds) => {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                continue;
            }
            Step::Bind(n) => {
                let new = new_session(n);
                let bound = call(&store, SessionRequest::Bind(new.clone()));
                let known = model.entries.iter_mut().find(|entry| entry.new == new);
                if known.is_none() && !model.make_room(new.owner) {
                    prop_assert_eq!(bound, None);
                    continue;
                }
                let session = bound.unwrap();
                prop_assert!(matches_session(&session, &new));
                match model.entries.iter_mut().find(|entry| entry.new == new) {
                    Some(entry) => {
                        prop_assert_eq!(&entry.id, &session.id);
                        entry.used = now;
                    }
                    None => {
                        prop_assert!(!ids.contains(&session.id));
                        ids.push(session.id.clone());
                        model.insert(session.id, new, now);
                    }
                }
                continue;
            }
            Step::Lookup(n) => id(n).map(|id| (id.clone(), SessionRequest::Lookup(id))),
            Step::Touch(n) => id(n).map(|id| (id.clone(), SessionRequest::Touch(id))),
            Step::Remove(n) => id(n).map(|id| (id.clone(), SessionRequest::Remove(id))),
        };
        let Some((id, request)) = request else {
            continue;
        };
        let found = call(&store, request.clone());
        let expected = model.find(&id);
        prop_assert_eq!(found.is_some(), expected.is_some(), "{:?}", request);
        if let (Some(found), Some(entry)) = (found, expected) {
            prop_assert_eq!(&found.id, &id);
            prop_assert!(matches_session(&found, &entry.new));
            entry.used = now;
            if let SessionRequest::Remove(id) = request {
                model.entries.retain(|entry| entry.id != id);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_sequence_of_requests_matches_the_model(max_sessions in 1..8usize, steps in prop::collection::vec(step(), 1..200)) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(max_sessions, steps))?;
    }
}
