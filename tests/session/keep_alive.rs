//! An open stream keeps its session alive.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use crate::proxy::{Proxy, ask, header, opens};
use crate::support::{Script, event_stream};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tower::service_fn;
use tower_sse_proxy::{
    SseBody, SseProxyLayer,
    session::{MemoryStore, Session, SessionId, SessionMapping, SessionRequest},
};

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_open_keeps_its_session_alive() {
    let store = MemoryStore::default().idle_timeout(Duration::from_secs(60));
    let layer = SseProxyLayer::new(store)
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")));
    let proxy = Proxy::new(layer.clone(), opens);
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    let idle = header(
        &proxy.send(ask("/").header("authorization", "other")).await,
        "x-session",
    )
    .unwrap();
    let request = Request::get("/").header("x-session", &id).body(()).unwrap();
    let stream = event_stream(Script::new([crate::support::Step::Never]));
    let open = crate::support::respond(&layer, request, stream).await;
    // Nobody polls the body: a client that does not read is still there.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let after = proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(after.status(), StatusCode::OK);
    let request = ask("/")
        .header("x-session", &idle)
        .header("authorization", "other");
    assert_eq!(proxy.send(request).await.status(), StatusCode::NOT_FOUND);
    drop(open);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let after = proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(after.status(), StatusCode::NOT_FOUND);
}

/// A store of one session, which is idle after this time, and what becomes of it when it is touched.
fn touched(
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
async fn a_store_that_panics_for_one_stream_keeps_the_sessions_of_others_alive() {
    let (touches, mut touched_so_often) = tokio::sync::watch::channel(0);
    let layer = touched(Duration::from_secs(3), move || {
        touches.send_modify(|touches| *touches += 1);
        assert_ne!(*touches.borrow(), 1, "the first one");
    });
    let _streams = [open_stream(&layer).await, open_stream(&layer).await];
    crate::support::soon(touched_so_often.wait_for(|&touches| touches == 6))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_idle_at_once_does_not_keep_its_stream_busy() {
    let (touches, mut touched_so_often) = tokio::sync::watch::channel(0);
    let layer = touched(Duration::ZERO, move || {
        touches.send_modify(|touches| *touches += 1);
    });
    let begun = tokio::time::Instant::now();
    let _stream = open_stream(&layer).await;
    touched_so_often
        .wait_for(|&touches| touches >= 100)
        .await
        .unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}
