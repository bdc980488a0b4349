//! What a [`SessionStore`] promises, as tests for a store of your own. Feature `testing`.
//!
//! [`core()`] is what the layer relies on in any store; [`stateful`] is for stores that remember what they have bound, as
//! most do, and [`idle_timeout`] for those whose sessions expire unless they are used. A promise that is broken is a panic
//! which says which one. What the tests bind is new each time, and what they leave behind is theirs, so that they can run
//! on a store that is in use. They wait for as long as the store takes: give one that could hang a time limit.
//!
//! ```
//! use tower_sse_proxy::session::{MemoryStore, testing};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # tokio::time::pause();
//! // In a test with `#[tokio::test(start_paused = true)]`:
//! let store = MemoryStore::default();
//! testing::core(store.clone()).await;
//! testing::stateful(store.clone()).await;
//! testing::idle_timeout(store, tokio::time::advance).await;
//! # }
//! ```
//!
//! A store of your own, as a function that may wait for something:
//!
//! ```
//! use std::{collections::HashMap, convert::Infallible, sync::Arc, time::SystemTime};
//! use tokio::sync::Mutex;
//! use tower::service_fn;
//! use tower_sse_proxy::session::{Session, SessionId, SessionRequest, testing};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let sessions = Arc::new(Mutex::new(HashMap::<SessionId, Session>::new()));
//! let store = service_fn(move |request| {
//!     let sessions = Arc::clone(&sessions);
//!     async move {
//!         let mut sessions = sessions.lock().await; // or a database
//!         Ok::<_, Infallible>(match request {
//!             SessionRequest::Lookup(id) | SessionRequest::Touch(id) => sessions.get(&id).cloned(),
//!             SessionRequest::Remove(id) => sessions.remove(&id),
//!             SessionRequest::Bind(new) => {
//!                 let mut known = sessions.values();
//!                 let known = known.find(|old| {
//!                     (&old.upstream_id, &old.upstream, old.owner) == (&new.upstream_id, &new.upstream, new.owner)
//!                 });
//!                 let session = match known {
//!                     Some(known) => known.clone(),
//!                     None => Session::new(SessionId::random(), new, SystemTime::now()),
//!                 };
//!                 sessions.insert(session.id.clone(), session.clone());
//!                 Some(session)
//!             }
//!             _ => None,
//!         })
//!     }
//! });
//! testing::core(store.clone()).await;
//! testing::stateful(store).await;
//! # }
//! ```

mod promises;

use std::time::Duration;

use futures_util::future::join_all;
use tower::{BoxError, ServiceExt};

use super::{
    NewSession, Owner, Session, SessionId, SessionRequest, SessionStore, UpstreamKey,
    UpstreamSessionId,
};

/// How many requests the tests make at once.
const AT_ONCE: usize = 64;

/// What every store promises.
///
/// * `Bind` answers a session with what was asked for, under an id that has room for 128 random bits, and that neither is
///   like another one nor shows the upstream's.
/// * `Lookup` and `Touch` give exactly that session back, with the upstream's id, key and owner as they were bound,
///   whatever bytes they are of.
/// * An id that is unknown, shortened, altered in one character or of any length finds nothing.
/// * After `Remove`, which answers what it removed, the session is no more, and the others are.
/// * Requests that are made at once get their own answers.
///
/// # Panics
/// If a promise is broken, or the store fails.
pub async fn core(store: impl SessionStore) {
    promises::gives_back_what_was_bound(&store).await;
    promises::keeps_apart_what_differs(&store).await;
    promises::finds_nothing_by_other_ids(&store).await;
    promises::forgets_what_is_removed(&store).await;
    promises::answers_each_its_own(&store).await;
}

/// What a store promises that remembers what it has bound.
///
/// * The same session of the same upstream and owner is bound once, also by many at once, and stays that session.
/// * `Touch` and `Lookup` keep it.
/// * When it was removed, it is bound anew under another id, and the old id stays unknown.
///
/// # Panics
/// If a promise is broken, or the store fails.
pub async fn stateful(store: impl SessionStore) {
    let new = with_key(a_session(), "upstream");
    let bound = join_all((0..AT_ONCE).map(|_| bind(&store, new.clone()))).await;
    let first = &bound[0];
    for other in &bound {
        assert!(
            other.id == first.id,
            "the same session was bound at once under several ids"
        );
        assert!(
            other.created == first.created,
            "a session that is bound already was created again"
        );
    }
    check(
        ask(&store, SessionRequest::Touch(first.id.clone())).await,
        first,
        "Touch",
    );
    check(
        ask(&store, SessionRequest::Lookup(first.id.clone())).await,
        first,
        "Lookup after Touch",
    );
    let again = bind(&store, new.clone()).await;
    assert!(
        again.id == first.id,
        "a session that is bound already was bound under another id"
    );

    ask(&store, SessionRequest::Remove(first.id.clone())).await;
    let anew = bind(&store, new).await;
    assert!(
        anew.id != first.id,
        "a session that was removed was bound again under its old id"
    );
    check(
        ask(&store, SessionRequest::Lookup(anew.id.clone())).await,
        &anew,
        "Lookup of what was bound anew",
    );
    expect_nothing(&store, &first.id, "removed, and bound anew under another").await;
}

/// What a store promises whose sessions name an [`idle_timeout`](Session::idle_timeout).
///
/// * A session that is touched or looked up lives on for all of the timeout.
/// * One that is not is found no more, and its upstream's id is bound anew under another id.
///
/// `pass` makes so much time pass for the store: `tokio::time::advance` on a paused clock, a sleep, or whatever moves the
/// store's clock.
///
/// # Panics
/// If a promise is broken, the store fails, or its sessions name no timeout.
pub async fn idle_timeout(store: impl SessionStore, pass: impl AsyncFn(Duration)) {
    let new = a_session();
    let session = bind(&store, new.clone()).await;
    let timeout = session
        .idle_timeout
        .expect("the store's sessions name no idle_timeout");
    for request in [
        SessionRequest::Lookup,
        SessionRequest::Touch,
        SessionRequest::Lookup,
    ] {
        pass(timeout * 2 / 3).await;
        let found = ask(&store, request(session.id.clone())).await;
        check(
            found,
            &session,
            "two thirds of the idle timeout after it was asked for",
        );
    }
    pass(timeout * 4 / 3).await;
    expect_nothing(&store, &session.id, "idle for longer than its timeout").await;
    let anew = bind(&store, new).await;
    assert!(
        anew.id != session.id,
        "a session that has expired was bound again under its old id"
    );
}

/// One that nobody has bound before.
fn a_session() -> NewSession {
    let random = SessionId::random();
    let mut owner = [0; 32];
    owner.copy_from_slice(&random.as_str().as_bytes()[..32]);
    let upstream_id = format!("upstream-{}", SessionId::random().as_str());
    NewSession::new(
        UpstreamSessionId::new(upstream_id),
        Owner::from_bytes(owner),
    )
}

fn with_key(new: NewSession, key: &str) -> NewSession {
    NewSession {
        upstream: Some(UpstreamKey::new(key)),
        ..new
    }
}

async fn ask<S: SessionStore>(store: &S, request: SessionRequest) -> Option<Session> {
    let name = format!("{request:?}");
    match store.clone().oneshot(request).await {
        Ok(answer) => answer,
        Err(error) => {
            let error: BoxError = error.into();
            panic!("the store failed at {name}: {error}")
        }
    }
}

async fn bind(store: &impl SessionStore, new: NewSession) -> Session {
    let session = ask(store, SessionRequest::Bind(new.clone())).await;
    let session = session.expect("Bind answered None");
    assert_same(&session, &new, "Bind");
    session
}

fn check(found: Option<Session>, expected: &Session, when: &str) {
    let found = found.unwrap_or_else(|| panic!("a session is lost: {when}"));
    assert!(
        found.id == expected.id,
        "a session has another id than it was bound under: {when}"
    );
    let bound = NewSession {
        upstream_id: expected.upstream_id.clone(),
        upstream: expected.upstream.clone(),
        owner: expected.owner,
    };
    assert_same(&found, &bound, when);
}

fn assert_same(session: &Session, new: &NewSession, when: &str) {
    assert!(
        session.upstream_id == new.upstream_id,
        "the upstream id is not the one that was bound: {when}"
    );
    assert!(
        session.upstream == new.upstream,
        "the upstream key is not the one that was bound: {when}"
    );
    assert!(
        session.owner == new.owner,
        "the owner is not the one that was bound: {when}"
    );
}

async fn expect_nothing(store: &impl SessionStore, id: &SessionId, which: &str) {
    for request in [
        SessionRequest::Lookup,
        SessionRequest::Touch,
        SessionRequest::Remove,
        SessionRequest::Lookup,
    ] {
        let request = request(id.clone());
        let name = format!("{request:?}");
        let found = ask(store, request).await;
        assert!(
            found.is_none(),
            "{name} found a session by an id that is {which}"
        );
    }
}
