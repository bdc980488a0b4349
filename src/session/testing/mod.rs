//! Tests of the requirements on a [`SessionStore`], to run on your own store. Feature `testing`.
//!
//! [`core()`] has the requirements on every store. [`stateful`] is for stores that remember their sessions, and [`idle_timeout`] for
//! stores whose sessions expire without use. A test panics if the store violates a requirement, and the message says which.
//!
//! Each test binds new random sessions and does not remove them all. It uses only these, so that it can run on a store in production. The
//! tests have no time limit: wrap a store that may hang in a timeout.
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
//! With a store that is an async function:
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
//!                 let bound = sessions.values().find(|old| {
//!                     (&old.upstream_id, &old.upstream, old.owner) == (&new.upstream_id, &new.upstream, new.owner)
//!                 });
//!                 let session = match bound {
//!                     Some(bound) => bound.clone(),
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

mod requirements;

use std::time::Duration;

use futures_util::future::join_all;
use tower::{BoxError, ServiceExt};

use super::{
    NewSession, Owner, Session, SessionId, SessionRequest, SessionStore, UpstreamKey,
    UpstreamSessionId,
};

/// The number of concurrent requests in the tests.
const CONCURRENCY: usize = 64;

/// Tests the requirements on every store.
///
/// * `Bind` returns a session with the upstream session id, upstream key and owner of the request. Its id is long enough for 128 random
///   bits, differs from other ids in many characters, and does not contain the upstream session id.
/// * `Lookup` and `Touch` return the same session, with any text as the upstream session id and the upstream key.
/// * An unknown id finds nothing: also one that is cut, changed in one character, or of another length.
/// * `Remove` returns the session. Later requests do not find it, and find all other sessions.
/// * Each of several concurrent requests gets its own response.
///
/// # Panics
/// If the store violates a requirement, or returns an error.
pub async fn core(store: impl SessionStore) {
    requirements::returns_the_bound_session(&store).await;
    requirements::separates_different_sessions(&store).await;
    requirements::finds_nothing_by_unknown_ids(&store).await;
    requirements::removes_sessions(&store).await;
    requirements::responds_to_concurrent_requests(&store).await;
}

/// Tests the requirements on a store that remembers its sessions.
///
/// * Repeated and concurrent `Bind` requests with the same upstream session id, upstream key and owner return the same session.
/// * `Touch` and `Lookup` do not change that.
/// * After `Remove`, the next `Bind` returns a session with another id, and the old id remains unknown.
///
/// # Panics
/// If the store violates a requirement, or returns an error.
pub async fn stateful(store: impl SessionStore) {
    let new = with_key(random_session(), "upstream");
    let bound = join_all((0..CONCURRENCY).map(|_| bind(&store, new.clone()))).await;
    let first = &bound[0];
    for other in &bound {
        assert!(
            other.id == first.id,
            "concurrent Bind requests for one session returned several ids"
        );
        assert!(
            other.created == first.created,
            "a repeated Bind changed the creation time of the session"
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
    assert!(again.id == first.id, "a repeated Bind returned another id");

    ask(&store, SessionRequest::Remove(first.id.clone())).await;
    let rebound = bind(&store, new).await;
    assert!(
        rebound.id != first.id,
        "a removed session was bound again under its old id"
    );
    check(
        ask(&store, SessionRequest::Lookup(rebound.id.clone())).await,
        &rebound,
        "Lookup of a session that was removed and bound again",
    );
    expect_nothing(&store, &first.id, "removed, and bound again under another").await;
}

/// Tests the requirements on a [`stateful`] store that can change a session ([`Rebind`](SessionRequest::Rebind)).
///
/// * `Rebind` returns the session with the new upstream session id and upstream key, and `Lookup` finds it so. The client's id, the owner
///   and the creation time are the same. A later `Bind` of the former upstream session id returns another session.
/// * `Rebind` for an unknown id, for a removed session or with another owner returns `None`, and changes and creates nothing.
/// * Two sessions may be bound to one upstream session id. Removing one of them leaves the other.
///
/// # Panics
/// If the store violates a requirement, or returns an error.
pub async fn rebinding(store: impl SessionStore) {
    requirements::rebinds_sessions(&store).await;
    requirements::rebinds_no_other_session(&store).await;
    requirements::separates_sessions_with_one_upstream_id(&store).await;
}

/// Tests the requirements on a store whose sessions have an [`idle_timeout`](Session::idle_timeout).
///
/// * `Touch` and `Lookup` restart the idle timeout.
/// * After the idle timeout, the session is unknown, and the next `Bind` returns a session with another id.
///
/// `advance` advances the clock of the store by a duration: `tokio::time::advance` on a paused clock, or a sleep.
///
/// # Panics
/// If the store violates a requirement, returns an error, or its sessions have no `idle_timeout`.
pub async fn idle_timeout(store: impl SessionStore, advance: impl AsyncFn(Duration)) {
    let new = random_session();
    let session = bind(&store, new.clone()).await;
    let timeout = session
        .idle_timeout
        .expect("the sessions of the store have no idle_timeout");
    for request in [
        SessionRequest::Lookup,
        SessionRequest::Touch,
        SessionRequest::Lookup,
    ] {
        advance(timeout * 2 / 3).await;
        let found = ask(&store, request(session.id.clone())).await;
        check(
            found,
            &session,
            "two thirds of the idle timeout after its last use",
        );
    }
    advance(timeout * 4 / 3).await;
    expect_nothing(&store, &session.id, "idle for longer than its timeout").await;
    let rebound = bind(&store, new).await;
    assert!(
        rebound.id != session.id,
        "an expired session was bound again under its old id"
    );
}

/// A session that the store cannot know.
fn random_session() -> NewSession {
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
        Ok(session) => session,
        Err(error) => {
            let error: BoxError = error.into();
            panic!("the store returned an error for {name}: {error}")
        }
    }
}

async fn bind(store: &impl SessionStore, new: NewSession) -> Session {
    let session = ask(store, SessionRequest::Bind(new.clone())).await;
    let session = session.expect("Bind returned None");
    assert_same(&session, &new, "Bind");
    session
}

fn check(found: Option<Session>, expected: &Session, when: &str) {
    let found = found.unwrap_or_else(|| panic!("the store lost a session: {when}"));
    assert!(
        found.id == expected.id,
        "the session has another id than at its Bind: {when}"
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
