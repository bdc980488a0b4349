//! What is kept in memory, and for how long.

use std::{thread, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;
use tower::Service;
use tower_sse_proxy::session::{
    MemoryStore, NewSession, Owner, Session, SessionId, SessionRequest, UpstreamKey,
    UpstreamSessionId,
};

fn ask(store: &MemoryStore, request: SessionRequest) -> Option<Session> {
    store.clone().call(request).into_inner().unwrap()
}

fn bind(store: &MemoryStore, upstream_id: impl ToString) -> Session {
    let upstream_id = UpstreamSessionId::new(upstream_id.to_string());
    let new = NewSession::new(upstream_id, Owner::ANONYMOUS);
    ask(store, SessionRequest::Bind(new)).unwrap()
}

fn is_kept(store: &MemoryStore, session: &Session) -> bool {
    ask(store, SessionRequest::Lookup(session.id.clone())).is_some()
}

#[test]
fn no_runtime_is_needed() {
    let store = MemoryStore::default();
    let session = bind(&store, "u");
    assert!(is_kept(&store, &session));
}

#[test]
fn the_bound_is_exact_and_the_idlest_go_first() {
    let store = MemoryStore::default()
        .max_sessions(1_000)
        .max_sessions_per_owner(1_000);
    let first: Vec<_> = (0..1_000).map(|n| bind(&store, n)).collect();
    assert!(first[..100].iter().all(|session| is_kept(&store, session)));
    // The hundred that were asked for stay, and go last.
    let more: Vec<_> = (1_000..1_900).map(|n| bind(&store, n)).collect();
    let kept = |sessions: &[Session]| sessions.iter().filter(|s| is_kept(&store, s)).count();
    assert_eq!(
        (kept(&first[..100]), kept(&first[100..]), kept(&more)),
        (100, 0, 900)
    );
    bind(&store, "one more");
    let left: usize = kept(&first[..100]) + kept(&more);
    assert_eq!(left, 999);
}

#[test]
fn a_hundred_thousand_that_are_opened_and_left_do_not_stay() {
    let store = MemoryStore::default().max_sessions_per_owner(10_000);
    let sessions: Vec<_> = (0..100_000).map(|n| bind(&store, n)).collect();
    let (gone, last) = sessions.split_at(90_000);
    assert!(last.iter().all(|session| is_kept(&store, session)));
    assert!(!gone.iter().any(|session| is_kept(&store, session)));
}

#[test]
fn the_bound_holds_when_many_bind_at_once() {
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
    let kept = sessions
        .iter()
        .filter(|session| is_kept(&store, session))
        .count();
    assert_eq!(kept, 50);
}

#[test]
fn threads_that_bind_the_same_agree() {
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
fn ids_are_random_and_what_is_too_long_is_not_looked_for() {
    let store = MemoryStore::default();
    let session = bind(&store, "u");
    assert_eq!(session.id.as_str().len(), 48);
    for digits in [80, 81, 976] {
        let id = SessionId::parse(&format!("{}{}", session.id.as_str(), "0".repeat(digits)));
        assert!(ask(&store, SessionRequest::Lookup(id.unwrap())).is_none());
    }
    // After the digit that tells the shard, every place takes every value.
    let ids: Vec<_> = (0..256).map(|n| bind(&store, n).id).collect();
    for place in 1..48 {
        let mut seen: Vec<_> = ids.iter().map(|id| id.as_str().as_bytes()[place]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= 12, "place {place} has {} values", seen.len());
    }
}

#[test]
fn an_upstream_cannot_fill_the_memory_with_one_session() {
    let store = MemoryStore::default();
    let most = MemoryStore::MAX_UPSTREAM_LEN;
    let mut new = NewSession::new(
        UpstreamSessionId::new("x".repeat(most - 1)),
        Owner::ANONYMOUS,
    );
    new.upstream = Some(UpstreamKey::new("k"));
    assert!(ask(&store, SessionRequest::Bind(new.clone())).is_some());
    new.upstream = Some(UpstreamKey::new("kk"));
    assert!(ask(&store, SessionRequest::Bind(new)).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_says_how_long_it_lives_and_since_when() {
    let idle = Duration::from_secs(600);
    let store = MemoryStore::default().idle_timeout(idle);
    let session = bind(&store, "u");
    assert_eq!(session.idle_timeout, Some(idle));
    assert_eq!(session.created, session.last_seen);
    tokio::time::advance(Duration::from_secs(77)).await;
    let found = ask(&store, SessionRequest::Lookup(session.id)).unwrap();
    assert_eq!(found.created, session.created);
    assert_eq!(found.last_seen, session.created + Duration::from_secs(77));
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_ends_at_its_age() {
    let store = MemoryStore::default();
    let session = bind(&store, "u");
    for _ in 0..95 {
        tokio::time::advance(Duration::from_secs(15 * 60)).await;
        assert!(is_kept(&store, &session));
    }
    tokio::time::advance(Duration::from_secs(15 * 60)).await;
    assert!(!is_kept(&store, &session));
    let store = store.max_age(Duration::MAX).idle_timeout(Duration::MAX);
    let session = bind(&store, "u");
    tokio::time::advance(Duration::from_secs(1_000_000_000)).await;
    assert!(is_kept(&store, &session));
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

/// One of a few, so that some are bound again: three owners, two upstreams, three ids.
fn one_of_18(n: u8) -> NewSession {
    let mut new = NewSession::new(
        UpstreamSessionId::new(format!("u{}", n % 3)),
        Owner::from_bytes([n / 6; 32]),
    );
    new.upstream = (n / 3).is_multiple_of(2).then(|| UpstreamKey::new("k"));
    new
}

const IDLE: Duration = Duration::from_secs(100);
const AGE: Duration = Duration::from_secs(250);

/// What the store should do, as plainly as can be.
struct Model {
    most: usize,
    kept: Vec<Entry>,
}

struct Entry {
    id: SessionId,
    new: NewSession,
    bound: Instant,
    used: Instant,
}

impl Model {
    fn expire(&mut self, now: Instant) {
        self.kept
            .retain(|entry| now - entry.used < IDLE && now - entry.bound < AGE);
    }

    fn find(&mut self, id: &SessionId) -> Option<&mut Entry> {
        self.kept.iter_mut().find(|entry| entry.id == *id)
    }

    fn count(&self, owner: Owner) -> usize {
        let owned = self.kept.iter().filter(|entry| entry.new.owner == owner);
        owned.count()
    }

    /// Makes room for a session of this owner. False if there is none.
    fn make_room(&mut self, owner: Owner) -> bool {
        let own = self.count(owner);
        let mut candidates = Vec::new();
        if own < (self.most / 2).max(1) {
            if self.kept.len() < self.most {
                return true;
            }
            let mut owners: Vec<_> = self.kept.iter().map(|entry| entry.new.owner).collect();
            owners.sort_unstable();
            owners.dedup();
            owners.retain(|other| self.count(*other) >= own + 2);
            owners.sort_by_key(|other| std::cmp::Reverse(self.count(*other)));
            candidates = owners;
        }
        candidates.push(owner);
        let victim = candidates[0];
        self.kept.sort_by_key(|entry| entry.used);
        let oldest = self.kept.iter().position(|entry| entry.new.owner == victim);
        oldest.map(|oldest| self.kept.remove(oldest)).is_some()
    }

    fn keep(&mut self, id: SessionId, new: NewSession, now: Instant) {
        let entry = Entry {
            id,
            new,
            bound: now,
            used: now,
        };
        self.kept.push(entry);
    }
}

fn is_of(session: &Session, new: &NewSession) -> bool {
    session.upstream_id == new.upstream_id
        && session.upstream == new.upstream
        && session.owner == new.owner
}

async fn run(most: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = MemoryStore::default()
        .max_sessions(most)
        .idle_timeout(IDLE)
        .max_age(AGE);
    let mut model = Model {
        most,
        kept: Vec::new(),
    };
    let mut ids: Vec<SessionId> = Vec::new();
    for step in steps {
        // No two things happen at the same moment.
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
                let new = one_of_18(n);
                let bound = ask(&store, SessionRequest::Bind(new.clone()));
                let known = model.kept.iter_mut().find(|entry| entry.new == new);
                if known.is_none() && !model.make_room(new.owner) {
                    prop_assert_eq!(bound, None);
                    continue;
                }
                let session = bound.unwrap();
                prop_assert!(is_of(&session, &new));
                match model.kept.iter_mut().find(|entry| entry.new == new) {
                    Some(entry) => {
                        prop_assert_eq!(&entry.id, &session.id);
                        entry.used = now;
                    }
                    None => {
                        prop_assert!(!ids.contains(&session.id));
                        ids.push(session.id.clone());
                        model.keep(session.id, new, now);
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
        let found = ask(&store, request.clone());
        let expected = model.find(&id);
        prop_assert_eq!(found.is_some(), expected.is_some(), "{:?}", request);
        if let (Some(found), Some(entry)) = (found, expected) {
            prop_assert_eq!(&found.id, &id);
            prop_assert!(is_of(&found, &entry.new));
            entry.used = now;
            if let SessionRequest::Remove(id) = request {
                model.kept.retain(|entry| entry.id != id);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_sequence_does_as_the_model_says(most in 1..8usize, steps in prop::collection::vec(step(), 1..200)) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(most, steps))?;
    }
}
