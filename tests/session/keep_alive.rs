//! A session with an open stream does not expire.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use crate::proxy::{Proxy, header, opens_session, post};
use crate::support::{Script, event_stream};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tower::service_fn;
use tower_sse_proxy::{
    SseBody, SseProxyLayer,
    session::{MemoryStore, Session, SessionId, SessionMapping, SessionRequest},
};

#[tokio::test(start_paused = true)]
async fn open_stream_keeps_its_session_alive() {
    let store = MemoryStore::default().idle_timeout(Duration::from_secs(60));
    let layer = SseProxyLayer::new(store)
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")));
    let proxy = Proxy::new(layer.clone(), opens_session);
    let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
    let idle = header(
        &proxy.send(post("/").header("authorization", "other")).await,
        "x-session",
    )
    .unwrap();
    let request = Request::get("/").header("x-session", &id).body(()).unwrap();
    let stream = event_stream(Script::new([crate::support::Step::Never]));
    let open = crate::support::respond(&layer, request, stream).await;
    // The client does not read. Its stream is open nevertheless.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let after = proxy.send(post("/").header("x-session", &id)).await;
    assert_eq!(after.status(), StatusCode::OK);
    let request = post("/")
        .header("x-session", &idle)
        .header("authorization", "other");
    assert_eq!(proxy.send(request).await.status(), StatusCode::NOT_FOUND);
    drop(open);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let after = proxy.send(post("/").header("x-session", &id)).await;
    assert_eq!(after.status(), StatusCode::NOT_FOUND);
}

/// When a paused process continues, it may handle requests before its timers.
#[tokio::test(start_paused = true)]
async fn r44_pause_of_the_process_ends_no_session_with_an_open_stream() {
    let idle_timeout = Duration::from_secs(60);
    let store = MemoryStore::default().idle_timeout(idle_timeout);
    let layer = SseProxyLayer::new(store)
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")));
    let proxy = Proxy::new(layer.clone(), opens_session);
    let opened = async |owner: &str| {
        let request = post("/").header("authorization", owner);
        header(&proxy.send(request).await, "x-session").unwrap()
    };
    let (id, idle) = (opened("mine").await, opened("other").await);
    let request = Request::get("/").header("authorization", "mine");
    let request = request.header("x-session", &id).body(()).unwrap();
    let stream = event_stream(Script::new([crate::support::Step::Never]));
    let open = crate::support::respond(&layer, request, stream).await;
    let status = async |id: &str, owner: &str| {
        let request = post("/").header("authorization", owner);
        proxy.send(request.header("x-session", id)).await.status()
    };
    // `advance` runs no timer before it returns.
    for _ in 0..3 {
        tokio::time::advance(100 * idle_timeout).await;
        assert_eq!(status(&id, "mine").await, StatusCode::OK);
    }
    assert_eq!(status(&idle, "other").await, StatusCode::NOT_FOUND);
    // The session expires after its stream.
    drop(open);
    tokio::time::sleep(2 * idle_timeout).await;
    assert_eq!(status(&id, "mine").await, StatusCode::NOT_FOUND);
}

/// A layer with a store that gives each session this idle timeout, and calls `touch` for each request that is not a bind.
fn with_touch(
    idle_timeout: Duration,
    touch: impl Fn() + Clone + Send + Sync + 'static,
) -> SseProxyLayer {
    let store = service_fn(move |request| {
        let touch = touch.clone();
        async move {
            let SessionRequest::Bind(new) = request else {
                touch();
                return Ok::<_, Infallible>(None);
            };
            let mut session = Session::new(SessionId::random(), new, SystemTime::now());
            session.idle_timeout = Some(idle_timeout);
            Ok(Some(session))
        }
    });
    SseProxyLayer::new(store).sessions(SessionMapping::header(HeaderName::from_static("x-session")))
}

async fn open_stream(layer: &SseProxyLayer) -> Response<SseBody<Script>> {
    let mut stream = event_stream(Script::new([crate::support::Step::Never]));
    let id = HeaderValue::from_static("UP-1");
    stream.headers_mut().insert("x-session", id);
    crate::support::respond(layer, Request::new(()), stream).await
}

#[tokio::test(start_paused = true)]
async fn store_panic_for_one_stream_does_not_stop_touches_of_others() {
    let (touches, mut touch_count) = tokio::sync::watch::channel(0);
    let layer = with_touch(Duration::from_secs(3), move || {
        touches.send_modify(|touches| *touches += 1);
        assert_ne!(*touches.borrow(), 1, "panic at the first touch");
    });
    let _streams = [open_stream(&layer).await, open_stream(&layer).await];
    crate::support::soon(touch_count.wait_for(|&touches| touches == 6))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn touches_are_limited_with_an_idle_timeout_of_zero() {
    let (touches, mut touch_count) = tokio::sync::watch::channel(0);
    let layer = with_touch(Duration::ZERO, move || {
        touches.send_modify(|touches| *touches += 1);
    });
    let start = tokio::time::Instant::now();
    let _stream = open_stream(&layer).await;
    touch_count
        .wait_for(|&touches| touches >= 100)
        .await
        .unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
}
