//! A session belongs to its owner; for another owner it does not exist.

use crate::proxy::{Proxy, ask, by_header, header, opens, text};
use http::{HeaderName, StatusCode};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MemoryStore, SessionMapping},
};

#[tokio::test]
async fn a_session_of_another_owner_is_one_that_does_not_exist() {
    let proxy = Proxy::new(by_header(), opens);
    for proof in ["authorization", "x-api-key"] {
        let opened = proxy.send(ask("/").header(proof, "a=1")).await;
        let id = header(&opened, "x-session").unwrap();
        let before = proxy.asked.count();
        let mut answers = Vec::new();
        for request in [
            ask("/").header("x-session", &id),
            ask("/").header("x-session", &id).header(proof, "a=2"),
            ask("/")
                .header("x-session", &id)
                .header(proof, "a=1")
                .header(proof, "a=2"),
            ask("/").header("x-session", "unknown").header(proof, "a=1"),
        ] {
            let response = proxy.send(request).await;
            answers.push((
                response.status(),
                response.headers().clone(),
                text(response).await,
            ));
        }
        assert_eq!(answers[0].0, StatusCode::NOT_FOUND);
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
        assert_eq!(proxy.asked.count(), before, "the upstream was asked");
        let own = proxy
            .send(ask("/").header("x-session", &id).header(proof, "a=1"))
            .await;
        assert_eq!(own.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn owners_are_whoever_the_user_says() {
    let layer = by_header().owner(|request| {
        request
            .headers
            .get("x-user")
            .map(|user| user.as_bytes().to_vec())
    });
    let proxy = Proxy::new(layer, opens);
    let opened = proxy
        .send(
            ask("/")
                .header("x-user", "ann")
                .header("authorization", "old"),
        )
        .await;
    let id = header(&opened, "x-session").unwrap();
    let as_who = |user: &str| {
        ask("/")
            .header("x-session", &id)
            .header("x-user", user)
            .header("authorization", "new")
    };
    assert_eq!(proxy.send(as_who("ann")).await.status(), StatusCode::OK);
    assert_eq!(
        proxy.send(as_who("bob")).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn nodes_with_one_store_and_one_key_know_each_others_sessions() {
    let store = MemoryStore::default();
    let node = |key: &str| {
        let layer = SseProxyLayer::new(store.clone()).owner_key(key);
        Proxy::new(
            layer.sessions(SessionMapping::header(HeaderName::from_static("x-session"))),
            opens,
        )
    };
    let opened = node("key")
        .send(ask("/").header("authorization", "me"))
        .await;
    let id = header(&opened, "x-session").unwrap();
    let again = || {
        ask("/")
            .header("x-session", &id)
            .header("authorization", "me")
    };
    assert_eq!(node("key").send(again()).await.status(), StatusCode::OK);
    assert_eq!(
        node("another").send(again()).await.status(),
        StatusCode::NOT_FOUND
    );
}
