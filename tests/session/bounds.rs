//! Abandoned sessions, and ids that are too long: the store stays within its limits.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, Request, StatusCode};
use tower::{Service, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MemoryStore, SessionMapping, SessionRequest},
};

use crate::proxy::{Proxy, answer, header, opens_session, post, text, with};

#[tokio::test(start_paused = true)]
async fn r49_store_of_sessions_that_were_left_keeps_the_newest_up_to_its_limit() {
    const OPENED: usize = 20_000;
    const KEPT: usize = 1_000;
    let store = MemoryStore::default()
        .max_sessions(KEPT)
        .max_sessions_per_owner(KEPT);
    let mapping = || SessionMapping::header(HeaderName::from_static("x-session"));
    let layer = SseProxyLayer::new(store).sessions(mapping().end_on_delete_or_404());
    let opened = AtomicUsize::new(0);
    let proxy = Proxy::new(layer, move |request| {
        match request.headers().get("x-session") {
            None => {
                let number = opened.fetch_add(1, Ordering::SeqCst);
                with(answer(""), "x-session", &format!("UP-{number}"))
            }
            Some(_) => opens_session(request),
        }
    });
    let mut ids = Vec::new();
    for _ in 0..OPENED {
        let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
        assert!(id.len() >= 32, "{id} has less than 128 bits");
        ids.push(id);
        // Each session has a different time, so that the order of eviction is defined.
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let status = async |id: &String| proxy.send(post("/").header("x-session", id)).await.status();
    let (evicted, kept) = ids.split_at(OPENED - KEPT);
    for id in kept {
        assert_eq!(status(id).await, StatusCode::OK);
    }
    for id in evicted.iter().rev().take(KEPT).chain(&evicted[..KEPT]) {
        assert_eq!(status(id).await, StatusCode::NOT_FOUND);
    }
    // A deleted session is unknown, and so is a session that was idle for too long.
    let delete = Request::delete("/").header("x-session", &kept[0]);
    assert_eq!(proxy.send(delete).await.status(), StatusCode::OK);
    assert_eq!(status(&kept[0]).await, StatusCode::NOT_FOUND);
    tokio::time::advance(Duration::from_secs(31 * 60)).await;
    for id in kept {
        assert_eq!(status(id).await, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn r49_id_above_the_limit_reaches_neither_the_store_nor_the_upstream() {
    let calls = Arc::new(Mutex::new(Vec::<usize>::new()));
    let called = Arc::clone(&calls);
    let memory = MemoryStore::default();
    let store = service_fn(move |request: SessionRequest| {
        if let SessionRequest::Lookup(id) = &request {
            called.lock().unwrap().push(id.as_str().len());
        }
        memory.clone().call(request)
    });
    let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
    let proxy = Proxy::new(SseProxyLayer::new(store).sessions(mapping), opens_session);
    for length in [1025, 10_000, 100_000] {
        let id = "0".repeat(length);
        let response = proxy.send(post("/").header("x-session", &id)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(
            !text(response).await.contains(&id),
            "the id is in the response"
        );
    }
    assert!(calls.lock().unwrap().is_empty());
    // A store has the same limit or a lower one.
    for length in [128, 129, 1024] {
        let id = "0".repeat(length);
        let response = proxy.send(post("/").header("x-session", &id)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(*calls.lock().unwrap(), [128, 129, 1024]);
    assert_eq!(proxy.requests.count(), 0);
    assert_eq!(MemoryStore::MAX_ID_LEN, 128);
}
