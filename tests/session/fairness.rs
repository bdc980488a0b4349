//! One owner cannot use up the sessions of the others, and no session with an open stream makes room for a new one.

use std::{convert::Infallible, time::Duration};

use crate::support::{FedBody, event_stream};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseBody, SseProxyLayer,
    session::{
        MemoryStore, NewSession, Owner, Session, SessionMapping, SessionRequest, UpstreamSessionId,
    },
};

fn ask(store: &MemoryStore, request: SessionRequest) -> Option<Session> {
    store.clone().call(request).into_inner().unwrap()
}

fn try_bind(store: &MemoryStore, owner: u8, upstream_id: impl ToString) -> Option<Session> {
    let upstream_id = UpstreamSessionId::new(upstream_id.to_string());
    let new = NewSession::new(upstream_id, Owner::from_bytes([owner; 32]));
    ask(store, SessionRequest::Bind(new))
}

fn bind(store: &MemoryStore, owner: u8, upstream_id: impl ToString) -> Session {
    try_bind(store, owner, upstream_id).expect("there is room")
}

fn count(store: &MemoryStore, sessions: &[Session]) -> usize {
    let is_kept =
        |session: &&Session| ask(store, SessionRequest::Lookup(session.id.clone())).is_some();
    sessions.iter().filter(is_kept).count()
}

#[test]
fn one_owner_that_floods_the_store_evicts_its_own_sessions_only() {
    let store = MemoryStore::default().max_sessions(1_000);
    let others: Vec<_> = (1..=100).map(|owner| bind(&store, owner, "x")).collect();
    let flood: Vec<_> = (0..20_000).map(|n| bind(&store, 0, n)).collect();
    assert_eq!(count(&store, &others), 100);
    // The flood's oldest went first.
    let kept = count(&store, &flood);
    assert_eq!(count(&store, &flood[flood.len() - kept..]), kept);
    assert!((1..=900).contains(&kept), "{kept}");
    // There is room for newcomers all the same.
    let more: Vec<_> = (101..=250).map(|owner| bind(&store, owner, "x")).collect();
    assert_eq!(count(&store, &more), 150);
    assert_eq!(count(&store, &others), 100);
}

#[test]
fn a_full_store_takes_from_the_largest_owner_and_never_makes_a_smaller_one_smaller() {
    let store = MemoryStore::default().max_sessions(30);
    let large: Vec<_> = (0..15).map(|n| bind(&store, 1, n)).collect();
    let small: Vec<_> = (0..5).map(|n| bind(&store, 2, n)).collect();
    let middle: Vec<_> = (0..10).map(|n| bind(&store, 3, n)).collect();
    // Of the same size as the others in the end.
    let new: Vec<_> = (0..15).map(|n| bind(&store, 4, n)).collect();
    let counts = [&large, &small, &middle, &new].map(|sessions| count(&store, sessions));
    assert_eq!((counts[0] + counts[2], counts[1], counts[3]), (17, 5, 8));
    assert!(counts[0] >= 8 && counts[2] >= 8, "{counts:?}");
}

#[test]
fn a_full_store_of_equal_owners_refuses_newcomers() {
    let store = MemoryStore::default().max_sessions(50);
    let sessions: Vec<_> = (0..50).map(|owner| bind(&store, owner, "x")).collect();
    assert!(try_bind(&store, 99, "x").is_none());
    assert_eq!(count(&store, &sessions), 50);
    ask(&store, SessionRequest::Remove(sessions[7].id.clone()));
    assert!(try_bind(&store, 99, "x").is_some());
}

#[tokio::test(start_paused = true)]
async fn sessions_that_have_expired_make_room_before_any_other() {
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
fn the_limit_of_an_owner_can_be_set() {
    let store = MemoryStore::default()
        .max_sessions(100)
        .max_sessions_per_owner(3);
    let sessions: Vec<_> = (0..10).map(|n| bind(&store, 1, n)).collect();
    assert_eq!(count(&store, &sessions[7..]), 3);
    assert_eq!(count(&store, &sessions), 3);
    // To bind a session again takes no room.
    for n in 7..10 {
        bind(&store, 1, n);
    }
    assert_eq!(count(&store, &sessions), 3);
}

/// A layer in front of a server that opens a session, and a stream for a GET, which never ends.
fn server() -> impl Fn(&SseProxyLayer, Request<()>) -> Answered {
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

type Answered =
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
async fn a_session_with_an_open_stream_is_not_evicted_by_its_own_owner_either() {
    for recorded in [false, true] {
        let store = MemoryStore::default().max_sessions(100);
        let mut layer = SseProxyLayer::new(store).sessions(SessionMapping::header("x-session"));
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
        let gone = send(&layer, request("POST", Some(&idle))).await.unwrap();
        assert_eq!(gone.status(), 404);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_sessions_all_have_streams_gets_503_with_retry_after() {
    let store = MemoryStore::default()
        .max_sessions(100)
        .max_sessions_per_owner(3);
    let layer = SseProxyLayer::new(store).sessions(SessionMapping::header("x-session"));
    let send = server();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = send(&layer, request("GET", None)).await.unwrap();
        assert_eq!(stream.status(), 200);
        streams.push((session_of(&stream), stream));
    }
    let refused = send(&layer, request("POST", None)).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let retry = refused.headers()["retry-after"].to_str().unwrap();
    assert!((1..=60).contains(&retry.parse::<u32>().unwrap()));
    // Another owner is not affected.
    let mut other = request("POST", None);
    other
        .headers_mut()
        .insert("authorization", "other".parse().unwrap());
    assert_eq!(send(&layer, other).await.unwrap().status(), 200);
    // When a stream closes, its session makes room.
    let (closed, stream) = streams.swap_remove(1);
    drop(stream);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let opened = send(&layer, request("POST", None)).await.unwrap();
    assert_eq!(opened.status(), 200);
    let gone = send(&layer, request("POST", Some(&closed))).await.unwrap();
    assert_eq!(gone.status(), 404);
    for (session, _) in &streams {
        let there = send(&layer, request("POST", Some(session))).await.unwrap();
        assert_eq!(there.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_stream_waits_for_its_head_is_not_evicted() {
    let store = MemoryStore::default().max_sessions(10);
    let layer = SseProxyLayer::new(store).sessions(SessionMapping::header("x-session"));
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
    let gone = send(&layer, request("POST", Some(&session))).await.unwrap();
    assert_eq!(gone.status(), 404);
}
