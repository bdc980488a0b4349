//! What every store promises, one promise after the other.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::{AT_ONCE, a_session, ask, bind, check, expect_nothing, with_key};
use crate::session::{
    NewSession, Owner, Session, SessionId, SessionRequest, SessionStore, UpstreamSessionId,
};

/// An id of 128 random bits is at least that long in base64; and that many of its characters differ from another's.
const LEAST_LEN: usize = 22;
const LEAST_DIFFERENT: usize = 16;

pub(super) async fn gives_back_what_was_bound(store: &impl SessionStore) {
    let plain = a_session();
    let odd = format!(
        "{} a:b/c\"\\\r\n{{}}\u{0}\u{e9}\u{1f980}",
        SessionId::random().as_str()
    );
    let sessions = [
        with_key(a_session(), "10.0.0.7:8080"),
        with_key(
            NewSession {
                upstream_id: UpstreamSessionId::new(odd),
                ..plain.clone()
            },
            "key: \u{e9}\r\n|",
        ),
        NewSession {
            upstream_id: UpstreamSessionId::new("long".repeat(64)),
            owner: a_session().owner,
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
            id.len() >= LEAST_LEN,
            "an id of {} characters has no room for 128 random bits",
            id.len()
        );
        assert!(
            !id.contains(upstream_id.as_str()),
            "the upstream's id can be read in the client's"
        );
        // Twice, since finding it must not use it up.
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

pub(super) async fn keeps_apart_what_differs(store: &impl SessionStore) {
    let new = with_key(a_session(), "a");
    let mut alike = vec![
        new.clone(),
        NewSession {
            owner: a_session().owner,
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
    // A store that joins its keys must not take one for the other.
    for (key, id) in [("a:b", "c"), ("a", "b:c"), ("ab", "c"), ("a", "bc")] {
        alike.push(with_key(
            NewSession {
                upstream_id: UpstreamSessionId::new(id),
                ..new.clone()
            },
            key,
        ));
    }
    alike.extend((0..AT_ONCE).map(|_| a_session()));

    let mut bound: Vec<Session> = Vec::new();
    for new in alike {
        let session = bind(store, new).await;
        for other in &bound {
            let different = different(&session.id, &other.id);
            assert!(
                different > 0,
                "two sessions that differ in owner, upstream key or upstream id have one id"
            );
            assert!(
                different >= LEAST_DIFFERENT,
                "two ids differ in {different} characters only: they can be guessed"
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

pub(super) async fn finds_nothing_by_other_ids(store: &impl SessionStore) {
    let session = bind(store, a_session()).await;
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
    // Some are too long for any store.
    let others: Vec<_> = others
        .iter()
        .filter_map(|other| SessionId::parse(other).ok())
        .collect();
    for some in others.chunks(AT_ONCE) {
        let asked = some
            .iter()
            .map(|other| expect_nothing(store, other, "not one that the store gave"));
        join_all(asked).await;
    }
    let found = ask(store, SessionRequest::Lookup(session.id.clone())).await;
    check(
        found,
        &session,
        "Lookup after others were asked for by ids like its own",
    );
}

pub(super) async fn forgets_what_is_removed(store: &impl SessionStore) {
    let (session, other) = (
        bind(store, a_session()).await,
        bind(store, a_session()).await,
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

pub(super) async fn answers_each_its_own(store: &impl SessionStore) {
    let news: Vec<_> = (0..AT_ONCE)
        .map(|n| with_key(a_session(), &n.to_string()))
        .collect();
    let bound = join_all(news.into_iter().map(|new| bind(store, new))).await;
    let found = bound
        .iter()
        .map(|session| ask(store, SessionRequest::Lookup(session.id.clone())));
    for (found, session) in join_all(found).await.into_iter().zip(&bound) {
        check(found, session, "Lookup of many at once");
    }
    // Every other one goes while the others are asked for.
    let requests = bound.iter().enumerate().map(|(n, session)| match n % 2 {
        0 => ask(store, SessionRequest::Remove(session.id.clone())),
        _ => ask(store, SessionRequest::Touch(session.id.clone())),
    });
    for (found, session) in join_all(requests).await.into_iter().zip(&bound) {
        check(found, session, "Remove and Touch of many at once");
    }
}

fn different(a: &SessionId, b: &SessionId) -> usize {
    let (a, b) = (a.as_str(), b.as_str());
    let differ = a.bytes().zip(b.bytes()).filter(|(a, b)| a != b).count();
    differ + a.len().abs_diff(b.len())
}
