//! One owner cannot use up the sessions of other owners, and no session with an open stream is evicted for a new one.

use std::{convert::Infallible, time::Duration};

use crate::support::{FedBody, event_stream};
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseBody, SseProxyLayer,
    session::{
        MemoryStore, NewSession, Owner, Session, SessionMapping, SessionRequest, UpstreamSessionId,
    },
};

fn call(store: &MemoryStore, request: SessionRequest) -> Option<Session> {
    store.clone().call(request).into_inner().unwrap()
}

fn try_bind(store: &MemoryStore, owner: u8, upstream_id: impl ToString) -> Option<Session> {
    let upstream_id = UpstreamSessionId::new(upstream_id.to_string());
    let new = NewSession::new(upstream_id, Owner::from_bytes([owner; 32]));
    call(store, SessionRequest::Bind(new))
}

fn bind(store: &MemoryStore, owner: u8, upstream_id: impl ToString) -> Session {
    try_bind(store, owner, upstream_id).expect("the store has room")
}

fn count(store: &MemoryStore, sessions: &[Session]) -> usize {
    let is_known =
        |session: &&Session| call(store, SessionRequest::Lookup(session.id.clone())).is_some();
    sessions.iter().filter(is_known).count()
}

#[test]
fn owner_that_floods_the_store_evicts_only_its_own_sessions() {
    let store = MemoryStore::default().max_sessions(1_000);
    let others: Vec<_> = (1..=100).map(|owner| bind(&store, owner, "x")).collect();
    let flood: Vec<_> = (0..20_000).map(|n| bind(&store, 0, n)).collect();
    assert_eq!(count(&store, &others), 100);
    // The oldest sessions of the flood were evicted first.
    let remaining = count(&store, &flood);
    assert_eq!(count(&store, &flood[flood.len() - remaining..]), remaining);
    assert!((1..=900).contains(&remaining), "{remaining}");
    // New owners still get sessions.
    let more: Vec<_> = (101..=250).map(|owner| bind(&store, owner, "x")).collect();
    assert_eq!(count(&store, &more), 150);
    assert_eq!(count(&store, &others), 100);
}

#[test]
fn full_store_evicts_sessions_of_the_largest_owners_only() {
    let store = MemoryStore::default().max_sessions(30);
    let large: Vec<_> = (0..15).map(|n| bind(&store, 1, n)).collect();
    let small: Vec<_> = (0..5).map(|n| bind(&store, 2, n)).collect();
    let middle: Vec<_> = (0..10).map(|n| bind(&store, 3, n)).collect();
    // In the end, owner 4 has about as many sessions as owners 1 and 3.
    let new: Vec<_> = (0..15).map(|n| bind(&store, 4, n)).collect();
    let counts = [&large, &small, &middle, &new].map(|sessions| count(&store, sessions));
    assert_eq!((counts[0] + counts[2], counts[1], counts[3]), (17, 5, 8));
    assert!(counts[0] >= 8 && counts[2] >= 8, "{counts:?}");
}

#[test]
fn full_store_of_equal_owners_rejects_new_owners() {
    let store = MemoryStore::default().max_sessions(50);
    let sessions: Vec<_> = (0..50).map(|owner| bind(&store, owner, "x")).collect();
    assert!(try_bind(&store, 99, "x").is_none());
    assert_eq!(count(&store, &sessions), 50);
    call(&store, SessionRequest::Remove(sessions[7].id.clone()));
    assert!(try_bind(&store, 99, "x").is_some());
}

#[tokio::test(start_paused = true)]
async fn expired_sessions_are_evicted_first() {
    let store = MemoryStore::default()
        .max_sessions(20)
        .idle_timeout(Duration::from_secs(60));
    let old: Vec<_> = (0..10).map(|owner| bind(&store, owner, "old")).collect();
    advance(Duration::from_secs(59)).await;
    let young: Vec<_> = (10..20).map(|owner| bind(&store, owner, "young")).collect();
    assert!(try_bind(&store, 99, "x").is_none());
    advance(Duration::from_secs(2)).await;
    for owner in 20..30 {
        bind(&store, owner, "x");
    }
    assert_eq!((count(&store, &old), count(&store, &young)), (0, 10));
}

#[test]
fn max_sessions_per_owner_limits_each_owner() {
    let store = MemoryStore::default()
        .max_sessions(100)
        .max_sessions_per_owner(3);
    let sessions: Vec<_> = (0..10).map(|n| bind(&store, 1, n)).collect();
    assert_eq!(count(&store, &sessions[7..]), 3);
    assert_eq!(count(&store, &sessions), 3);
    // Binding an existing session again needs no room.
    for n in 7..10 {
        bind(&store, 1, n);
    }
    assert_eq!(count(&store, &sessions), 3);
}

/// A layer with an upstream that opens a session on each request without one, and answers a GET with an endless stream.
fn server() -> impl Fn(&SseProxyLayer, Request<()>) -> ResponseFuture {
    let number = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    move |layer, request| {
        let number = std::sync::Arc::clone(&number);
        let service = service_fn(move |request: Request<()>| {
            let (feed, body) = FedBody::new(1);
            let mut response = if request.method() == http::Method::GET {
                tokio::spawn(async move {
                    let mut feed = feed;
                    while feed
                        .send_data(Bytes::from(": still here\n\n"))
                        .await
                        .is_ok()
                    {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }
                });
                event_stream(body)
            } else {
                Response::new(body)
            };
            let id = request.headers().get("x-session").cloned();
            let id = id.unwrap_or_else(|| {
                let n = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                format!("UP-{n}").parse().unwrap()
            });
            response.headers_mut().insert("x-session", id);
            async { Ok::<_, Infallible>(response) }
        });
        Box::pin(layer.layer(service).oneshot(request))
    }
}

type ResponseFuture =
    futures_util::future::BoxFuture<'static, Result<Response<SseBody<FedBody>>, Infallible>>;

fn request(method: &str, session: Option<&str>) -> Request<()> {
    let mut request = Request::builder().method(method);
    if let Some(session) = session {
        request = request.header("x-session", session);
    }
    request.body(()).unwrap()
}

fn session_of<B>(response: &Response<B>) -> String {
    response.headers()["x-session"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn session_with_an_open_stream_is_not_evicted_for_its_own_owner() {
    for recorded in [false, true] {
        let store = MemoryStore::default().max_sessions(100);
        let mut layer = SseProxyLayer::new(store)
            .sessions(SessionMapping::header(HeaderName::from_static("x-session")));
        if recorded {
            layer = layer.replay(tower_sse_proxy::replay::Replay::default());
        }
        let send = server();
        let opened = send(&layer, request("POST", None)).await.unwrap();
        let session = session_of(&opened);
        let stream = send(&layer, request("GET", Some(&session))).await.unwrap();
        assert_eq!(stream.status(), 200);
        let mut body = stream.into_body();
        assert!(body.frame().await.is_some());
        let mut idle = String::new();
        for n in 0..1_000 {
            let opened = send(&layer, request("POST", None)).await.unwrap();
            assert_eq!(opened.status(), 200);
            if n == 0 {
                idle = session_of(&opened);
            }
        }
        let again = send(&layer, request("POST", Some(&session))).await.unwrap();
        assert_eq!(again.status(), 200, "recorded: {recorded}");
        let evicted = send(&layer, request("POST", Some(&idle))).await.unwrap();
        assert_eq!(evicted.status(), 404);
    }
}

#[tokio::test(start_paused = true)]
async fn owner_with_streams_in_all_sessions_gets_503_with_retry_after() {
    let store = MemoryStore::default()
        .max_sessions(100)
        .max_sessions_per_owner(3);
    let layer = SseProxyLayer::new(store)
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")));
    let send = server();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = send(&layer, request("GET", None)).await.unwrap();
        assert_eq!(stream.status(), 200);
        streams.push((session_of(&stream), stream));
    }
    let rejected = send(&layer, request("POST", None)).await.unwrap();
    assert_eq!(rejected.status(), StatusCode::SERVICE_UNAVAILABLE);
    let retry = rejected.headers()["retry-after"].to_str().unwrap();
    assert!((1..=60).contains(&retry.parse::<u32>().unwrap()));
    // Another owner is not affected.
    let mut other = request("POST", None);
    other
        .headers_mut()
        .insert("authorization", "other".parse().unwrap());
    assert_eq!(send(&layer, other).await.unwrap().status(), 200);
    // A session without a stream is evicted again.
    let (closed, stream) = streams.swap_remove(1);
    drop(stream);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let opened = send(&layer, request("POST", None)).await.unwrap();
    assert_eq!(opened.status(), 200);
    let evicted = send(&layer, request("POST", Some(&closed))).await.unwrap();
    assert_eq!(evicted.status(), 404);
    for (session, _) in &streams {
        let answer = send(&layer, request("POST", Some(session))).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn session_of_a_stream_that_waits_for_its_head_is_not_evicted() {
    let store = MemoryStore::default().max_sessions(10);
    let layer = SseProxyLayer::new(store)
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")));
    let send = server();
    let opened = send(&layer, request("POST", None)).await.unwrap();
    let session = session_of(&opened);
    let never = service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<FedBody>, Infallible>>()
    });
    let waiting = layer.layer(never).oneshot(request("GET", Some(&session)));
    let waiting = tokio::spawn(waiting);
    tokio::task::yield_now().await;
    for _ in 0..100 {
        send(&layer, request("POST", None)).await.unwrap();
    }
    let again = send(&layer, request("POST", Some(&session))).await.unwrap();
    assert_eq!(again.status(), 200);
    waiting.abort();
    let _ = waiting.await;
    for _ in 0..100 {
        send(&layer, request("POST", None)).await.unwrap();
    }
    let evicted = send(&layer, request("POST", Some(&session))).await.unwrap();
    assert_eq!(evicted.status(), 404);
}
