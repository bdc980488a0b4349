//! A session belongs to its owner. For other owners it does not exist.

use std::sync::{Arc, Mutex};

use crate::proxy::{Proxy, by_header, header, opens_session, post, text};
use http::HeaderName;
use http::StatusCode;
use tower::{Service, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MemoryStore, SessionMapping, SessionRequest},
};

/// For a session of another owner, the layer does the same work as for an unknown session: one lookup in the store.
#[tokio::test]
async fn r48_session_of_another_owner_is_unknown() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let called = Arc::clone(&calls);
    let store = MemoryStore::default();
    let counting = service_fn(move |request: SessionRequest| {
        let is_lookup = matches!(request, SessionRequest::Lookup(_));
        called.lock().unwrap().push(is_lookup);
        store.clone().call(request)
    });
    let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
    let layer = SseProxyLayer::new(counting).sessions(mapping);
    let proxy = Proxy::new(layer, opens_session);
    for credential in ["authorization", "x-api-key"] {
        let opened = proxy.send(post("/").header(credential, "a=1")).await;
        let id = header(&opened, "x-session").unwrap();
        let before = proxy.requests.count();
        let mut answers = Vec::new();
        for request in [
            post("/").header("x-session", &id),
            post("/").header("x-session", &id).header(credential, "a=2"),
            post("/")
                .header("x-session", &id)
                .header(credential, "a=1")
                .header(credential, "a=2"),
            post("/")
                .header("x-session", "unknown")
                .header(credential, "a=1"),
        ] {
            calls.lock().unwrap().clear();
            let response = proxy.send(request).await;
            assert_eq!(*calls.lock().unwrap(), [true]);
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
        assert_eq!(proxy.requests.count(), before, "the upstream got a request");
        let own = proxy
            .send(post("/").header("x-session", &id).header(credential, "a=1"))
            .await;
        assert_eq!(own.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn owner_function_replaces_the_credentials() {
    let layer = by_header().owner(|request| {
        request
            .headers
            .get("x-user")
            .map(|user| user.as_bytes().to_vec())
    });
    let proxy = Proxy::new(layer, opens_session);
    let opened = proxy
        .send(
            post("/")
                .header("x-user", "ann")
                .header("authorization", "old"),
        )
        .await;
    let id = header(&opened, "x-session").unwrap();
    let by_user = |user: &str| {
        post("/")
            .header("x-session", &id)
            .header("x-user", user)
            .header("authorization", "new")
    };
    assert_eq!(proxy.send(by_user("ann")).await.status(), StatusCode::OK);
    assert_eq!(
        proxy.send(by_user("bob")).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn nodes_with_the_same_store_and_owner_key_share_sessions() {
    let store = MemoryStore::default();
    let node = |key: &str| {
        let layer = SseProxyLayer::new(store.clone()).owner_key(key);
        Proxy::new(
            layer.sessions(SessionMapping::header(HeaderName::from_static("x-session"))),
            opens_session,
        )
    };
    let opened = node("key")
        .send(post("/").header("authorization", "me"))
        .await;
    let id = header(&opened, "x-session").unwrap();
    let again = || {
        post("/")
            .header("x-session", &id)
            .header("authorization", "me")
    };
    assert_eq!(node("key").send(again()).await.status(), StatusCode::OK);
    assert_eq!(
        node("another").send(again()).await.status(),
        StatusCode::NOT_FOUND
    );
}
