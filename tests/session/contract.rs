//! `session::testing`: a correct store passes, and each kind of faulty store fails with the promise that it breaks.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tower::{service_fn, util::BoxCloneSyncService};
use tower_sse_proxy::session::{
    NewSession, Owner, Session, SessionId, SessionRequest, UpstreamSessionId, testing,
};

#[tokio::test]
async fn correct_store_passes() {
    let store = store(|request, sessions| sessions.answer(request));
    testing::core(store.clone()).await;
    testing::stateful(store.clone()).await;
    testing::rebinding(store).await;
}

#[tokio::test]
async fn incomplete_rebind_fails() {
    assert_fails(
        "the upstream id is not the one that was bound: Lookup after Rebind",
        |request, sessions| match request {
            SessionRequest::Rebind(id, new) => {
                let mut session = sessions.0.get(&id)?.clone();
                session.upstream_id = new.upstream_id;
                session.upstream = new.upstream;
                Some(session)
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn rebind_of_another_owner_fails() {
    assert_fails(
        "Rebind with another owner returned a session",
        |request, sessions| match request {
            SessionRequest::Rebind(id, mut new) => {
                new.owner = sessions.0.get(&id)?.owner;
                sessions.answer(SessionRequest::Rebind(id, new))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn rebind_of_an_unknown_session_fails() {
    assert_fails(
        "Rebind with an unknown id returned a session",
        |request, sessions| match request {
            SessionRequest::Rebind(id, new) if !sessions.0.contains_key(&id) => {
                Some(sessions.insert(id, new))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn same_id_for_all_sessions_fails() {
    assert_fails("have the same id", |request, sessions| match request {
        SessionRequest::Bind(new) => Some(sessions.insert(id(&"1".repeat(32)), new)),
        other => sessions.answer(other),
    })
    .await;
}

#[tokio::test]
async fn consecutive_ids_fail() {
    assert_fails(
        "a client can guess one from the other",
        |request, sessions| match request {
            SessionRequest::Bind(new) => {
                Some(sessions.insert(id(&format!("{:032}", sessions.0.len())), new))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn short_ids_fail() {
    assert_fails(
        "too short for 128 random bits",
        |request, sessions| match request {
            SessionRequest::Bind(new) => {
                Some(sessions.insert(id(&SessionId::random().as_str()[..16]), new))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn ids_that_contain_the_upstream_id_fail() {
    assert_fails(
        "client's session id contains the upstream's",
        |request, sessions| match request {
            SessionRequest::Bind(new) => {
                let id = SessionId::parse(&format!("our-{}", new.upstream_id.as_str()));
                Some(sessions.insert(id.unwrap_or_else(|_| SessionId::random()), new))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn ignored_owner_fails() {
    assert_fails(
        "owner, upstream key or upstream id have the same id",
        |request, sessions| match request {
            SessionRequest::Bind(new) => {
                let same = |old: &&Session| {
                    (&old.upstream_id, &old.upstream) == (&new.upstream_id, &new.upstream)
                };
                let mut old = sessions.0.values().find(same).cloned();
                if let Some(old) = &mut old {
                    old.owner = new.owner;
                }
                old.or_else(|| Some(sessions.insert(SessionId::random(), new)))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn upstream_key_concatenated_with_id_fails() {
    assert_fails(
        "owner, upstream key or upstream id have the same id",
        |request, sessions| match request {
            SessionRequest::Bind(new) => {
                let joined =
                    |key: Option<&str>, id: &str| format!("{}:{id}", key.unwrap_or_default());
                let wanted = joined(
                    new.upstream.as_ref().map(|key| key.as_str()),
                    new.upstream_id.as_str(),
                );
                let same = |old: &&Session| {
                    let key = old.upstream.as_ref().map(|key| key.as_str());
                    old.owner == new.owner && joined(key, old.upstream_id.as_str()) == wanted
                };
                let mut old = sessions.0.values().find(same).cloned();
                if let Some(old) = &mut old {
                    (old.upstream_id, old.upstream) =
                        (new.upstream_id.clone(), new.upstream.clone());
                }
                old.or_else(|| Some(sessions.insert(SessionId::random(), new)))
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn owner_missing_in_lookup_fails() {
    assert_fails(
        "the owner is not the one that was bound: Lookup",
        |request, sessions| {
            let mut found = sessions.answer(request.clone())?;
            if let SessionRequest::Lookup(_) = request {
                found.owner = Owner::ANONYMOUS;
            }
            Some(found)
        },
    )
    .await;
}

#[tokio::test]
async fn other_owner_for_anonymous_sessions_fails() {
    assert_fails(
        "the owner is not the one that was bound: Lookup",
        |request, sessions| {
            let mut found = sessions.answer(request.clone())?;
            let lookup = matches!(request, SessionRequest::Lookup(_));
            if lookup && found.owner == Owner::ANONYMOUS {
                found.owner = Owner::from_bytes([1; 32]);
            }
            Some(found)
        },
    )
    .await;
}

#[tokio::test]
async fn missing_upstream_key_fails() {
    assert_fails(
        "the upstream key is not the one that was bound: Bind",
        |request, sessions| {
            let mut found = sessions.answer(request)?;
            found.upstream = None;
            Some(found)
        },
    )
    .await;
}

#[tokio::test]
async fn upstream_id_without_non_ascii_characters_fails() {
    assert_fails("the upstream id is not the one", |request, sessions| {
        let mut found = sessions.answer(request)?;
        let ascii: String = found
            .upstream_id
            .as_str()
            .chars()
            .filter(char::is_ascii)
            .collect();
        found.upstream_id = UpstreamSessionId::new(ascii);
        Some(found)
    })
    .await;
}

#[tokio::test]
async fn lookup_that_removes_the_session_fails() {
    assert_fails(
        "the store lost a session: Touch",
        |request, sessions| match request {
            SessionRequest::Lookup(id) => sessions.0.remove(&id),
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn lookup_by_id_prefix_fails() {
    assert_fails("not from the store", |request, sessions| match request {
        SessionRequest::Lookup(id) => {
            let found = sessions
                .0
                .values()
                .find(|session| session.id.as_str().starts_with(id.as_str()));
            found.cloned()
        }
        other => sessions.answer(other),
    })
    .await;
}

#[tokio::test]
async fn case_insensitive_ids_fail() {
    assert_fails("not from the store", |request, sessions| match request {
        SessionRequest::Touch(id) => {
            let same = |session: &&Session| session.id.as_str().eq_ignore_ascii_case(id.as_str());
            sessions.0.values().find(same).cloned()
        }
        other => sessions.answer(other),
    })
    .await;
}

#[tokio::test]
async fn remove_that_keeps_the_session_fails() {
    assert_fails(
        "a session by an id that is removed",
        |request, sessions| match request {
            SessionRequest::Remove(id) => sessions.0.get(&id).cloned(),
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn remove_that_returns_nothing_fails() {
    assert_fails(
        "the store lost a session: Remove",
        |request, sessions| match request {
            SessionRequest::Remove(id) => sessions.0.remove(&id).and(None),
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn remove_of_all_sessions_fails() {
    assert_fails(
        "the store lost a session: Lookup after another was removed",
        |request, sessions| match request {
            SessionRequest::Remove(id) => {
                let removed = sessions.0.remove(&id)?;
                sessions.0.clear();
                Some(removed)
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn second_bind_with_a_new_id_fails() {
    assert_fails(
        "concurrent Bind requests for one session returned several ids",
        |request, sessions| match request {
            SessionRequest::Bind(new) => Some(sessions.insert(SessionId::random(), new)),
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn reused_id_after_remove_fails() {
    let removed = Mutex::new(Vec::<Session>::new());
    let removed = Arc::new(removed);
    assert_fails(
        "bound again under its old id",
        move |request, sessions| match request {
            SessionRequest::Remove(id) => {
                let session = sessions.0.remove(&id)?;
                removed.lock().unwrap().push(session.clone());
                Some(session)
            }
            SessionRequest::Bind(new) => {
                let old = removed
                    .lock()
                    .unwrap()
                    .iter()
                    .find(|old| matches_session(old, &new))
                    .cloned();
                match old {
                    Some(old) => Some(sessions.insert(old.id, new)),
                    None => sessions.answer(SessionRequest::Bind(new)),
                }
            }
            other => sessions.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn responses_to_other_requests_fail() {
    let sessions = Arc::new(Mutex::new((None, Sessions::default())));
    let store = service_fn(move |request| {
        let sessions = sessions.clone();
        sessions.lock().unwrap().0 = Some(request);
        async move {
            tokio::task::yield_now().await;
            let (last, sessions) = &mut *sessions.lock().unwrap();
            Ok::<_, Infallible>(sessions.answer(last.clone().unwrap()))
        }
    });
    let run = tokio::spawn(testing::core(Store::new(store)));
    assert_breaks(
        run.await,
        "the upstream id is not the one that was bound: Bind",
    );
}

#[tokio::test]
async fn remove_of_another_session_fails() {
    let sessions = Arc::new(Mutex::new((None, Sessions::default())));
    let store = service_fn(move |request| {
        let sessions = sessions.clone();
        async move {
            if !matches!(request, SessionRequest::Remove(_)) {
                return Ok::<_, Infallible>(sessions.lock().unwrap().1.answer(request));
            }
            sessions.lock().unwrap().0 = Some(request);
            tokio::task::yield_now().await;
            let (last, sessions) = &mut *sessions.lock().unwrap();
            Ok(sessions.answer(last.clone().unwrap()))
        }
    });
    let run = tokio::spawn(testing::core(Store::new(store)));
    assert_breaks(run.await, "concurrent Remove and Touch");
}

#[tokio::test(start_paused = true)]
async fn missing_expiry_fails() {
    let store = store(|request, sessions| {
        let mut found = sessions.answer(request)?;
        found.idle_timeout = Some(Duration::from_secs(60));
        Some(found)
    });
    let run = tokio::spawn(testing::idle_timeout(store, tokio::time::advance));
    assert_breaks(run.await, "idle for longer than its timeout");
}

#[tokio::test(start_paused = true)]
async fn expiry_after_twice_the_idle_timeout_fails() {
    let used = Arc::new(Mutex::new(tokio::time::Instant::now()));
    let store = store(move |request, sessions| {
        let timeout = Duration::from_secs(60);
        let mut used = used.lock().unwrap();
        if used.elapsed() >= 2 * timeout {
            sessions.0.clear();
        }
        *used = tokio::time::Instant::now();
        let mut found = sessions.answer(request)?;
        found.idle_timeout = Some(timeout);
        Some(found)
    });
    let run = tokio::spawn(testing::idle_timeout(store, tokio::time::advance));
    assert_breaks(run.await, "idle for longer than its timeout");
}

#[tokio::test(start_paused = true)]
async fn touch_that_does_not_extend_the_session_fails() {
    let created = tokio::time::Instant::now();
    let store = store(move |request, sessions| {
        let timeout = Duration::from_secs(60);
        if created.elapsed() >= timeout {
            sessions.0.clear();
        }
        let mut found = sessions.answer(request)?;
        found.idle_timeout = Some(timeout);
        Some(found)
    });
    let run = tokio::spawn(testing::idle_timeout(store, tokio::time::advance));
    assert_breaks(run.await, "two thirds of the idle timeout");
}

/// Runs all tests with a store that answers by `answer`. They must fail with a message about this promise.
async fn assert_fails(promise: &str, answer: impl Answer) {
    assert_store_fails(promise, store(answer)).await;
}

/// Not generic, so that the compiler instantiates the requirements once.
async fn assert_store_fails(promise: &str, store: Store) {
    let run = tokio::spawn(async {
        testing::core(store.clone()).await;
        testing::stateful(store.clone()).await;
        testing::rebinding(store).await;
    });
    assert_breaks(run.await, promise);
}

fn assert_breaks(run: Result<(), tokio::task::JoinError>, promise: &str) {
    let panic = message(run.expect_err(promise).into_panic());
    assert!(
        panic.contains(promise),
        "the message {panic:?} is not about {promise:?}"
    );
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap().to_string(),
    }
}

trait Answer:
    Fn(SessionRequest, &mut Sessions) -> Option<Session> + Clone + Send + Sync + 'static
{
}

impl<F: Fn(SessionRequest, &mut Sessions) -> Option<Session> + Clone + Send + Sync + 'static> Answer
    for F
{
}

/// One type for all stores, so that the compiler instantiates the requirements once.
type Store = BoxCloneSyncService<SessionRequest, Option<Session>, Infallible>;

fn store(answer: impl Answer) -> Store {
    let sessions = Arc::new(Mutex::new(Sessions::default()));
    BoxCloneSyncService::new(service_fn(move |request| {
        ready(Ok(answer(request, &mut sessions.lock().unwrap())))
    }))
}

/// The simplest correct store.
#[derive(Default)]
struct Sessions(HashMap<SessionId, Session>);

impl Sessions {
    fn answer(&mut self, request: SessionRequest) -> Option<Session> {
        match request {
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) => self.0.get(&id).cloned(),
            SessionRequest::Remove(id) => self.0.remove(&id),
            SessionRequest::Bind(new) => {
                let bound = self
                    .0
                    .values()
                    .find(|old| matches_session(old, &new))
                    .cloned();
                bound.or_else(|| Some(self.insert(SessionId::random(), new)))
            }
            SessionRequest::Rebind(id, new) => {
                let session = self.0.get_mut(&id)?;
                if session.owner != new.owner {
                    return None;
                }
                session.upstream_id = new.upstream_id;
                session.upstream = new.upstream;
                Some(session.clone())
            }
            _ => None,
        }
    }

    fn insert(&mut self, id: SessionId, new: NewSession) -> Session {
        let session = Session::new(id.clone(), new, SystemTime::now());
        self.0.insert(id, session.clone());
        session
    }
}

fn matches_session(session: &Session, new: &NewSession) -> bool {
    session.upstream_id == new.upstream_id
        && session.upstream == new.upstream
        && session.owner == new.owner
}

fn id(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}
