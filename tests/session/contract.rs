//! The tests of what a session store promises let a good store pass, and find the one that does not keep a promise.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tower::service_fn;
use tower_sse_proxy::session::{
    NewSession, Owner, Session, SessionId, SessionRequest, SessionStore, UpstreamSessionId, testing,
};

#[tokio::test]
async fn a_good_one_passes() {
    let store = store(|request, all| all.answer(request));
    testing::core(store.clone()).await;
    testing::stateful(store).await;
}

#[tokio::test]
async fn one_id_for_all() {
    is_found_out("have the same id", |request, all| match request {
        SessionRequest::Bind(new) => Some(all.keep(id(&"1".repeat(32)), new)),
        other => all.answer(other),
    })
    .await;
}

#[tokio::test]
async fn ids_that_count() {
    is_found_out(
        "a client can guess one from the other",
        |request, all| match request {
            SessionRequest::Bind(new) => Some(all.keep(id(&format!("{:032}", all.0.len())), new)),
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn short_ids() {
    is_found_out(
        "too short for 128 random bits",
        |request, all| match request {
            SessionRequest::Bind(new) => {
                Some(all.keep(id(&SessionId::random().as_str()[..16]), new))
            }
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn ids_that_show_the_upstream_s() {
    is_found_out(
        "client's session id contains the upstream's",
        |request, all| match request {
            SessionRequest::Bind(new) => {
                let id = SessionId::parse(&format!("our-{}", new.upstream_id.as_str()));
                Some(all.keep(id.unwrap_or_else(|_| SessionId::random()), new))
            }
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn owners_that_make_no_difference() {
    is_found_out(
        "owner, upstream key or upstream id have the same id",
        |request, all| match request {
            SessionRequest::Bind(new) => {
                let same = |old: &&Session| {
                    (&old.upstream_id, &old.upstream) == (&new.upstream_id, &new.upstream)
                };
                let mut old = all.0.values().find(same).cloned();
                if let Some(old) = &mut old {
                    old.owner = new.owner;
                }
                old.or_else(|| Some(all.keep(SessionId::random(), new)))
            }
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn keys_that_are_joined() {
    is_found_out(
        "owner, upstream key or upstream id have the same id",
        |request, all| match request {
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
                let mut old = all.0.values().find(same).cloned();
                if let Some(old) = &mut old {
                    (old.upstream_id, old.upstream) =
                        (new.upstream_id.clone(), new.upstream.clone());
                }
                old.or_else(|| Some(all.keep(SessionId::random(), new)))
            }
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn lost_owners() {
    is_found_out(
        "the owner is not the one that was bound: Lookup",
        |request, all| {
            let mut found = all.answer(request.clone())?;
            if let SessionRequest::Lookup(_) = request {
                found.owner = Owner::ANONYMOUS;
            }
            Some(found)
        },
    )
    .await;
}

#[tokio::test]
async fn anonymous_owners_that_are_mistaken() {
    is_found_out(
        "the owner is not the one that was bound: Lookup",
        |request, all| {
            let mut found = all.answer(request.clone())?;
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
async fn lost_upstream_keys() {
    is_found_out(
        "the upstream key is not the one that was bound: Bind",
        |request, all| {
            let mut found = all.answer(request)?;
            found.upstream = None;
            Some(found)
        },
    )
    .await;
}

#[tokio::test]
async fn upstream_ids_that_are_cleaned_up() {
    is_found_out("the upstream id is not the one", |request, all| {
        let mut found = all.answer(request)?;
        let cleaned: String = found
            .upstream_id
            .as_str()
            .chars()
            .filter(char::is_ascii)
            .collect();
        found.upstream_id = UpstreamSessionId::new(cleaned);
        Some(found)
    })
    .await;
}

#[tokio::test]
async fn ids_that_are_good_for_one_question() {
    is_found_out(
        "the store lost a session: Touch",
        |request, all| match request {
            SessionRequest::Lookup(id) => all.0.remove(&id),
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn lookups_by_a_prefix() {
    is_found_out("not from the store", |request, all| match request {
        SessionRequest::Lookup(id) => {
            let found = all
                .0
                .values()
                .find(|session| session.id.as_str().starts_with(id.as_str()));
            found.cloned()
        }
        other => all.answer(other),
    })
    .await;
}

#[tokio::test]
async fn ids_of_any_case() {
    is_found_out("not from the store", |request, all| match request {
        SessionRequest::Touch(id) => {
            let same = |session: &&Session| session.id.as_str().eq_ignore_ascii_case(id.as_str());
            all.0.values().find(same).cloned()
        }
        other => all.answer(other),
    })
    .await;
}

#[tokio::test]
async fn removals_that_do_nothing() {
    is_found_out(
        "a session by an id that is removed",
        |request, all| match request {
            SessionRequest::Remove(id) => all.0.get(&id).cloned(),
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn removals_that_say_nothing() {
    is_found_out(
        "the store lost a session: Remove",
        |request, all| match request {
            SessionRequest::Remove(id) => all.0.remove(&id).and(None),
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn removals_of_everything() {
    is_found_out(
        "the store lost a session: Lookup after another was removed",
        |request, all| match request {
            SessionRequest::Remove(id) => {
                let removed = all.0.remove(&id)?;
                all.0.clear();
                Some(removed)
            }
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn sessions_that_are_bound_twice() {
    is_found_out(
        "concurrent Bind requests for one session returned several ids",
        |request, all| match request {
            SessionRequest::Bind(new) => Some(all.keep(SessionId::random(), new)),
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn ids_that_come_back() {
    let removed = Mutex::new(Vec::<Session>::new());
    let removed = Arc::new(removed);
    is_found_out(
        "bound again under its old id",
        move |request, all| match request {
            SessionRequest::Remove(id) => {
                let session = all.0.remove(&id)?;
                removed.lock().unwrap().push(session.clone());
                Some(session)
            }
            SessionRequest::Bind(new) => {
                let old = removed
                    .lock()
                    .unwrap()
                    .iter()
                    .find(|old| is_of(old, &new))
                    .cloned();
                match old {
                    Some(old) => Some(all.keep(old.id, new)),
                    None => all.answer(SessionRequest::Bind(new)),
                }
            }
            other => all.answer(other),
        },
    )
    .await;
}

#[tokio::test]
async fn answers_that_are_mixed_up() {
    let all = Arc::new(Mutex::new((None, All::default())));
    let store = service_fn(move |request| {
        let all = all.clone();
        all.lock().unwrap().0 = Some(request);
        async move {
            tokio::task::yield_now().await;
            let (last, all) = &mut *all.lock().unwrap();
            Ok::<_, Infallible>(all.answer(last.clone().unwrap()))
        }
    });
    let run = tokio::spawn(testing::core(store));
    breaks(
        run.await,
        "the upstream id is not the one that was bound: Bind",
    );
}

#[tokio::test]
async fn removals_that_are_mixed_up() {
    let all = Arc::new(Mutex::new((None, All::default())));
    let store = service_fn(move |request| {
        let all = all.clone();
        async move {
            if !matches!(request, SessionRequest::Remove(_)) {
                return Ok::<_, Infallible>(all.lock().unwrap().1.answer(request));
            }
            all.lock().unwrap().0 = Some(request);
            tokio::task::yield_now().await;
            let (last, all) = &mut *all.lock().unwrap();
            Ok(all.answer(last.clone().unwrap()))
        }
    });
    let run = tokio::spawn(testing::core(store));
    breaks(run.await, "concurrent Remove and Touch");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_never_expire() {
    let store = store(|request, all| {
        let mut found = all.answer(request)?;
        found.idle_timeout = Some(Duration::from_secs(60));
        Some(found)
    });
    let run = tokio::spawn(testing::idle_timeout(store, tokio::time::advance));
    breaks(run.await, "idle for longer than its timeout");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_live_for_twice_their_idle_timeout() {
    let used = Arc::new(Mutex::new(tokio::time::Instant::now()));
    let store = store(move |request, all| {
        let timeout = Duration::from_secs(60);
        let mut used = used.lock().unwrap();
        if used.elapsed() >= 2 * timeout {
            all.0.clear();
        }
        *used = tokio::time::Instant::now();
        let mut found = all.answer(request)?;
        found.idle_timeout = Some(timeout);
        Some(found)
    });
    let run = tokio::spawn(testing::idle_timeout(store, tokio::time::advance));
    breaks(run.await, "idle for longer than its timeout");
}

#[tokio::test(start_paused = true)]
async fn touches_that_keep_nothing() {
    let begun = tokio::time::Instant::now();
    let store = store(move |request, all| {
        let timeout = Duration::from_secs(60);
        if begun.elapsed() >= timeout {
            all.0.clear();
        }
        let mut found = all.answer(request)?;
        found.idle_timeout = Some(timeout);
        Some(found)
    });
    let run = tokio::spawn(testing::idle_timeout(store, tokio::time::advance));
    breaks(run.await, "two thirds of the idle timeout");
}

/// A store that differs from a good one by this breaks this promise.
async fn is_found_out(promise: &str, answer: impl Answer) {
    let store = store(answer);
    let run = tokio::spawn(async {
        testing::core(store.clone()).await;
        testing::stateful(store).await;
    });
    breaks(run.await, promise);
}

fn breaks(run: Result<(), tokio::task::JoinError>, promise: &str) {
    let panic = message(run.expect_err(promise).into_panic());
    assert!(
        panic.contains(promise),
        "{panic:?} is not about {promise:?}"
    );
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap().to_string(),
    }
}

trait Answer: Fn(SessionRequest, &mut All) -> Option<Session> + Clone + Send + Sync + 'static {}

impl<F: Fn(SessionRequest, &mut All) -> Option<Session> + Clone + Send + Sync + 'static> Answer
    for F
{
}

fn store(answer: impl Answer) -> impl SessionStore {
    let all = Arc::new(Mutex::new(All::default()));
    service_fn(move |request| {
        ready(Ok::<_, Infallible>(answer(
            request,
            &mut all.lock().unwrap(),
        )))
    })
}

/// The plainest store there is.
#[derive(Default)]
struct All(HashMap<SessionId, Session>);

impl All {
    fn answer(&mut self, request: SessionRequest) -> Option<Session> {
        match request {
            SessionRequest::Lookup(id) | SessionRequest::Touch(id) => self.0.get(&id).cloned(),
            SessionRequest::Remove(id) => self.0.remove(&id),
            SessionRequest::Bind(new) => {
                let bound = self.0.values().find(|old| is_of(old, &new)).cloned();
                bound.or_else(|| Some(self.keep(SessionId::random(), new)))
            }
            _ => None,
        }
    }

    fn keep(&mut self, id: SessionId, new: NewSession) -> Session {
        let session = Session::new(id.clone(), new, SystemTime::now());
        self.0.insert(id, session.clone());
        session
    }
}

fn is_of(session: &Session, new: &NewSession) -> bool {
    session.upstream_id == new.upstream_id
        && session.upstream == new.upstream
        && session.owner == new.owner
}

fn id(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}
