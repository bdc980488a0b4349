//! The requirements on every store, one function for each.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::{CONCURRENCY, ask, bind, check, expect_nothing, random_session, with_key};
use crate::session::{
    NewSession, Owner, Session, SessionId, SessionRequest, SessionStore, UpstreamSessionId,
};

/// The length of 128 bits in base64.
const MIN_LEN: usize = 22;

/// The minimum number of characters in which two ids must differ. Two random ids of 128 bits practically always differ in more.
const MIN_DIFFERENT: usize = 16;

pub(super) async fn returns_the_bound_session(store: &impl SessionStore) {
    let plain = random_session();
    let odd = format!(
        "{} a:b/c\"\\\r\n{{}}\u{0}\u{e9}\u{1f980}",
        SessionId::random().as_str()
    );
    let sessions = [
        with_key(random_session(), "10.0.0.7:8080"),
        with_key(
            NewSession {
                upstream_id: UpstreamSessionId::new(odd),
                ..plain.clone()
            },
            "key: \u{e9}\r\n|",
        ),
        NewSession {
            upstream_id: UpstreamSessionId::new("long".repeat(64)),
            owner: random_session().owner,
            ..plain.clone()
        },
        NewSession {
            owner: Owner::ANONYMOUS,
            ..plain
        },
    ];
    for new in sessions {
        let upstream_id = new.upstream_id.clone();
        let session = bind(store, new).await;
        let id = session.id.as_str();
        assert!(
            id.len() >= MIN_LEN,
            "an id of {} characters is too short for 128 random bits",
            id.len()
        );
        assert!(
            !id.contains(upstream_id.as_str()),
            "the client's session id contains the upstream's"
        );
        // Twice: a lookup must not remove the session.
        for request in [
            SessionRequest::Lookup,
            SessionRequest::Touch,
            SessionRequest::Lookup,
            SessionRequest::Touch,
        ] {
            let request = request(session.id.clone());
            let name = format!("{request:?}");
            check(ask(store, request).await, &session, &name);
        }
    }
}

pub(super) async fn separates_different_sessions(store: &impl SessionStore) {
    let new = with_key(random_session(), "a");
    let mut alike = vec![
        new.clone(),
        NewSession {
            owner: random_session().owner,
            ..new.clone()
        },
        NewSession {
            owner: Owner::ANONYMOUS,
            ..new.clone()
        },
        NewSession {
            upstream: None,
            ..new.clone()
        },
        with_key(new.clone(), "b"),
    ];
    // A store that concatenates key and id must not mix these up.
    for (key, id) in [("a:b", "c"), ("a", "b:c"), ("ab", "c"), ("a", "bc")] {
        alike.push(with_key(
            NewSession {
                upstream_id: UpstreamSessionId::new(id),
                ..new.clone()
            },
            key,
        ));
    }
    alike.extend((0..CONCURRENCY).map(|_| random_session()));

    let mut bound: Vec<Session> = Vec::new();
    for new in alike {
        let session = bind(store, new).await;
        for other in &bound {
            let different = different(&session.id, &other.id);
            assert!(
                different > 0,
                "two sessions that differ in owner, upstream key or upstream id have the same id"
            );
            assert!(
                different >= MIN_DIFFERENT,
                "two ids differ in only {different} characters, so that a client can guess one from the other"
            );
        }
        bound.push(session);
    }
    for session in bound {
        check(
            ask(store, SessionRequest::Lookup(session.id.clone())).await,
            &session,
            "Lookup among others",
        );
    }
}

pub(super) async fn finds_nothing_by_unknown_ids(store: &impl SessionStore) {
    let session = bind(store, random_session()).await;
    let id = session.id.as_str();
    let mut others: HashSet<String> = [
        "0",
        "a",
        "~",
        "null",
        "../x",
        "*",
        "%00",
        &"x".repeat(128),
        &"f".repeat(129),
    ]
    .map(String::from)
    .into();
    others.extend([
        SessionId::random().as_str().into(),
        "0".repeat(SessionId::MAX_LEN),
        "~".repeat(SessionId::MAX_LEN),
    ]);
    others.extend((1..id.len()).map(|end| id[..end].into()));
    others.extend((1..id.len()).map(|start| id[start..].into()));
    others.extend(["0", "A", "=", "~"].map(|more| format!("{id}{more}")));
    others.extend([
        id.repeat(2),
        id.to_ascii_uppercase(),
        id.to_ascii_lowercase(),
    ]);
    for (at, old) in id.char_indices() {
        let new = if old == 'x' { 'y' } else { 'x' };
        others.insert(format!("{}{new}{}", &id[..at], &id[at + 1..]));
    }
    others.remove(id);
    // Texts that are not valid session ids are left out.
    let others: Vec<_> = others
        .iter()
        .filter_map(|other| SessionId::parse(other).ok())
        .collect();
    for chunk in others.chunks(CONCURRENCY) {
        let lookups = chunk
            .iter()
            .map(|other| expect_nothing(store, other, "not from the store"));
        join_all(lookups).await;
    }
    let found = ask(store, SessionRequest::Lookup(session.id.clone())).await;
    check(found, &session, "Lookup after lookups of similar ids");
}

pub(super) async fn removes_sessions(store: &impl SessionStore) {
    let (session, other) = (
        bind(store, random_session()).await,
        bind(store, random_session()).await,
    );
    check(
        ask(store, SessionRequest::Remove(session.id.clone())).await,
        &session,
        "Remove",
    );
    expect_nothing(store, &session.id, "removed").await;
    check(
        ask(store, SessionRequest::Lookup(other.id.clone())).await,
        &other,
        "Lookup after another was removed",
    );
}

pub(super) async fn responds_to_concurrent_requests(store: &impl SessionStore) {
    let news: Vec<_> = (0..CONCURRENCY)
        .map(|n| with_key(random_session(), &n.to_string()))
        .collect();
    let bound = join_all(news.into_iter().map(|new| bind(store, new))).await;
    let found = bound
        .iter()
        .map(|session| ask(store, SessionRequest::Lookup(session.id.clone())));
    for (found, session) in join_all(found).await.into_iter().zip(&bound) {
        check(found, session, "concurrent Lookup");
    }
    // Remove one half of the sessions while touching the other half.
    let requests = bound.iter().enumerate().map(|(n, session)| match n % 2 {
        0 => ask(store, SessionRequest::Remove(session.id.clone())),
        _ => ask(store, SessionRequest::Touch(session.id.clone())),
    });
    for (found, session) in join_all(requests).await.into_iter().zip(&bound) {
        check(found, session, "concurrent Remove and Touch");
    }
}

pub(super) async fn rebinds_sessions(store: &impl SessionStore) {
    let (session, other) = (
        bind(store, random_session()).await,
        bind(store, random_session()).await,
    );
    for key in ["upstream", "another upstream"] {
        let new = NewSession {
            owner: session.owner,
            ..with_key(random_session(), key)
        };
        let expected = Session {
            upstream_id: new.upstream_id.clone(),
            upstream: new.upstream.clone(),
            ..session.clone()
        };
        let rebound = ask(store, SessionRequest::Rebind(session.id.clone(), new)).await;
        assert!(
            rebound
                .as_ref()
                .is_some_and(|rebound| rebound.created == session.created),
            "Rebind changed the creation time of the session, or returned None"
        );
        check(rebound, &expected, "Rebind");
        let found = ask(store, SessionRequest::Lookup(session.id.clone())).await;
        check(found, &expected, "Lookup after Rebind");
    }
    let found = ask(store, SessionRequest::Lookup(other.id.clone())).await;
    check(found, &other, "Lookup after another session was rebound");

    let former = NewSession {
        upstream_id: session.upstream_id.clone(),
        owner: session.owner,
        ..random_session()
    };
    assert!(
        bind(store, former).await.id != session.id,
        "Bind with the former upstream id returned the session that was rebound"
    );
}

/// An upstream may use an id again. Many sessions, because a store may keep them in several places.
pub(super) async fn separates_sessions_with_one_upstream_id(store: &impl SessionStore) {
    let shared = random_session();
    let other = bind(store, shared.clone()).await;
    for _ in 0..CONCURRENCY {
        let new = NewSession {
            owner: shared.owner,
            ..random_session()
        };
        let session = bind(store, new).await;
        let rebind = SessionRequest::Rebind(session.id.clone(), shared.clone());
        let rebound = ask(store, rebind).await;
        assert!(
            rebound.is_some_and(|rebound| rebound.id == session.id),
            "Rebind to the upstream id of another session returned another session, or None"
        );
        ask(store, SessionRequest::Remove(session.id.clone())).await;
        expect_nothing(store, &session.id, "rebound and removed").await;
        let found = ask(store, SessionRequest::Lookup(other.id.clone())).await;
        check(
            found,
            &other,
            "Lookup after another session with its upstream id was removed",
        );
        let again = bind(store, shared.clone()).await;
        assert!(
            again.id == other.id,
            "Bind returned another id after another session with the upstream id was removed"
        );
    }
}

pub(super) async fn rebinds_no_other_session(store: &impl SessionStore) {
    let (session, removed) = (
        bind(store, random_session()).await,
        bind(store, random_session()).await,
    );
    ask(store, SessionRequest::Remove(removed.id.clone())).await;
    for (id, owner, which) in [
        (SessionId::random(), session.owner, "an unknown id"),
        (removed.id.clone(), removed.owner, "a removed session"),
        (session.id.clone(), Owner::ANONYMOUS, "another owner"),
    ] {
        let new = NewSession {
            owner,
            ..random_session()
        };
        let rebound = ask(store, SessionRequest::Rebind(id.clone(), new)).await;
        assert!(rebound.is_none(), "Rebind with {which} returned a session");
    }
    expect_nothing(store, &removed.id, "removed before a Rebind").await;
    let found = ask(store, SessionRequest::Lookup(session.id.clone())).await;
    check(found, &session, "Lookup after a Rebind with another owner");
}

fn different(a: &SessionId, b: &SessionId) -> usize {
    let (a, b) = (a.as_str(), b.as_str());
    let differ = a.bytes().zip(b.bytes()).filter(|(a, b)| a != b).count();
    differ + a.len().abs_diff(b.len())
}
