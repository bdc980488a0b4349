//! The layer together with axum's routers, tower-http's middleware and reqwest as a client.

use std::{
    convert::Infallible,
    marker::PhantomPinned,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use crate::support::{
    BOTH, Deny, Protocol, Upstream, event, event_stream, fetch, forward, get, pass, proxy, serve,
    sse_chunked,
};
use axum::{
    Json, Router,
    response::sse::{self, Sse},
    routing::{any_service, get as on_get},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, channel::Channel};
use tokio::{sync::mpsc, time::Duration};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, predicate::SizeAbove},
    decompression::DecompressionLayer,
    set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_sse_proxy::{Event, ResponseFuture, SseBody, SseProxy, SseProxyLayer};

fn guarded() -> SseProxyLayer {
    SseProxyLayer::default().intercept(Deny::opened)
}

/// A router with an event stream of the data that the test sends, and with a JSON response.
fn routes() -> (mpsc::UnboundedSender<&'static str>, Router) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let events = move || async move {
        let events = UnboundedReceiverStream::new(receiver.lock().unwrap().take().unwrap());
        Sse::new(events.map(|data| Ok::<_, Infallible>(sse::Event::default().data(data))))
    };
    let router = Router::new()
        .route("/events", on_get(events))
        .route("/json", on_get(|| async { Json(crate::support::SECRET) }));
    (sender, router)
}

async fn check_routes(router: Router, sender: mpsc::UnboundedSender<&'static str>, prefix: &str) {
    let server = serve(router).await;
    let request = |path: &str| {
        Request::get(format!("{prefix}{path}"))
            .body(Bytes::new())
            .unwrap()
    };
    let mut answer = fetch(Protocol::Http1, server, request("/events")).await;
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    for data in ["one", "two", "three"] {
        sender.send(crate::support::SECRET).unwrap();
        sender.send(data).unwrap();
        answer.expect(format!("data: {data}\n\n")).await;
    }
    drop(sender);
    let (rest, ended) = answer.rest().await;
    assert_eq!((&*rest, ended.is_clean()), (&b""[..], true));

    let (json, _) = fetch(Protocol::Http2, server, request("/json"))
        .await
        .rest()
        .await;
    assert_eq!(json, format!("{:?}", crate::support::SECRET));
}

#[tokio::test]
async fn layer_wraps_a_router() {
    let (sender, router) = routes();
    check_routes(router.layer(guarded()), sender, "").await;
}

#[tokio::test]
async fn layer_wraps_a_nested_router_or_its_parent() {
    let (sender, router) = routes();
    check_routes(
        Router::new().nest("/api", router.layer(guarded())),
        sender,
        "/api",
    )
    .await;
    let (sender, router) = routes();
    check_routes(
        Router::new().nest("/api", router).layer(guarded()),
        sender,
        "/api",
    )
    .await;
    let (sender, router) = routes();
    check_routes(
        Router::new().fallback_service(guarded().layer(router)),
        sender,
        "",
    )
    .await;
}

#[tokio::test]
async fn layer_on_one_route_does_not_affect_other_routes() {
    let events = || async { ([("content-type", "text/event-stream")], "data: hunter2\n\n") };
    let router = Router::new()
        .route("/guarded", on_get(events).layer(guarded()))
        .route("/by_service", any_service(on_get(events)).layer(guarded()))
        .route("/open", on_get(events));
    let server = serve(router).await;
    for (path, out) in [
        ("/guarded", ""),
        ("/by_service", ""),
        ("/open", "data: hunter2\n\n"),
    ] {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        let (body, _) = fetch(Protocol::Http1, server, request).await.rest().await;
        assert_eq!(body, out, "{path}");
    }
}

/// A stack of middleware outside or inside the layer.
type Stack = fn(Router, SseProxyLayer) -> Router;

fn stacks() -> Vec<(&'static str, Stack)> {
    fn timeout() -> TimeoutLayer {
        TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(60))
    }
    fn set_header() -> SetResponseHeaderLayer<HeaderValue> {
        let name = HeaderName::from_static("x-set");
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static("1"))
    }
    fn always() -> CompressionLayer<SizeAbove> {
        CompressionLayer::new().compress_when(SizeAbove::new(0))
    }
    vec![
        ("over trace", |app, sse| {
            app.layer(TraceLayer::new_for_http()).layer(sse)
        }),
        ("under trace", |app, sse| {
            app.layer(sse).layer(TraceLayer::new_for_http())
        }),
        ("over timeout", |app, sse| app.layer(timeout()).layer(sse)),
        ("under timeout", |app, sse| app.layer(sse).layer(timeout())),
        ("over compression", |app, sse| {
            app.layer(CompressionLayer::new()).layer(sse)
        }),
        ("under compression", |app, sse| {
            app.layer(sse).layer(CompressionLayer::new())
        }),
        ("over compression of everything", |app, sse| {
            app.layer(always()).layer(sse)
        }),
        ("over decompression", |app, sse| {
            app.layer(DecompressionLayer::new()).layer(sse)
        }),
        ("under decompression", |app, sse| {
            app.layer(sse).layer(DecompressionLayer::new())
        }),
        ("over catch-panic", |app, sse| {
            app.layer(CatchPanicLayer::new()).layer(sse)
        }),
        ("under catch-panic", |app, sse| {
            app.layer(sse).layer(CatchPanicLayer::new())
        }),
        ("over set-header", |app, sse| {
            app.layer(set_header()).layer(sse)
        }),
        ("under set-header", |app, sse| {
            app.layer(sse).layer(set_header())
        }),
        ("itself twice", |app, sse| app.layer(sse.clone()).layer(sse)),
        ("under everything", |app, sse| {
            let all = ServiceBuilder::new()
                .layer(TraceLayer::new_for_http())
                .layer(CatchPanicLayer::new())
                .layer(timeout())
                .layer(CompressionLayer::new());
            app.layer(sse).layer(all)
        }),
    ]
}

#[tokio::test]
async fn r12_events_arrive_one_by_one_through_other_middleware() {
    for (name, stack) in stacks() {
        for protocol in BOTH {
            let mut upstream = Upstream::start().await;
            let service = forward(upstream.address);
            let service = service.map_err(|error| -> Infallible { panic!("{error}") });
            let app = Router::new().fallback_service(service);
            let server = serve(stack(app, guarded())).await;
            let head = async {
                let mut exchange = upstream.next().await;
                exchange.write(sse_chunked()).await;
                exchange
            };
            let request = Request::get("/").header("accept-encoding", "gzip");
            let request = request.body(Bytes::new()).unwrap();
            let (mut exchange, mut answer) = tokio::join!(head, fetch(protocol, server, request));
            assert_eq!(answer.header("content-encoding"), None, "{name}");
            assert_eq!(
                answer.header("x-set").is_some(),
                name.contains("set-header")
            );
            for data in ["one", "two", "three"] {
                exchange
                    .chunk(format!("data: hunter2\n\ndata: {data}\n\n"))
                    .await;
                answer.expect(format!("data: {data}\n\n")).await;
            }
            exchange.write("0\r\n\r\n").await;
            let (rest, ended) = answer.rest().await;
            assert_eq!((&*rest, ended.is_clean()), (&b""[..], true), "{name}");
            assert_eq!(upstream.requests(), 1);
        }
    }
}

/// Longer than the time limit of the middleware, which is one minute.
#[tokio::test(start_paused = true)]
async fn r12_other_middleware_does_not_end_a_long_stream_or_panic_at_its_end() {
    for (name, stack) in stacks() {
        let (mut feed, body) = Channel::<Bytes, Infallible>::new(1);
        let body = Arc::new(Mutex::new(Some(body)));
        let app = Router::new().fallback(move || {
            let body = body.lock().unwrap().take().expect("one request");
            // Compression polls a body after its end.
            async { event_stream(axum::body::Body::new(body.fuse())) }
        });
        let request = Request::get("/").header("accept-encoding", "gzip");
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = stack(app, guarded()).oneshot(request).await.unwrap();
        let mut body = response.into_body();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            feed.send_data(event("tick")).await.unwrap();
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event("tick"), "{name}");
        }
        drop(feed);
        for _ in 0..2 {
            assert!(body.frame().await.is_none(), "{name}");
        }
    }
}

#[tokio::test]
async fn client_sees_a_cut_through_other_middleware() {
    let check = async |(name, stack): (&str, Stack), protocol| {
        let mut upstream = Upstream::start().await;
        let service = forward(upstream.address);
        let service = service.map_err(|error| -> Infallible { panic!("{error}") });
        let server = serve(stack(Router::new().fallback_service(service), guarded())).await;
        let head = async {
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange.chunk("data: 1\n\n").await;
        };
        let ((), answer) = tokio::join!(head, get(protocol, server));
        let (body, ended) = answer.rest().await;
        assert_eq!(
            (&*body, ended.is_clean()),
            (&b"data: 1\n\n"[..], false),
            "{name}"
        );
    };
    // All stacks at once, because the layer delays each error until the client has received the last event.
    let checks = stacks()
        .into_iter()
        .flat_map(|stack| BOTH.map(|protocol| check(stack, protocol)));
    join_all(checks).await;
}

#[tokio::test]
async fn reqwest_reads_event_by_event_and_sees_a_cut() {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(guarded(), upstream.address).await;
    let head = async {
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        exchange
    };
    let (mut exchange, response) = tokio::join!(head, reqwest::get(format!("http://{proxy}/")));
    let mut body = response.unwrap().bytes_stream();
    for data in ["one", "two"] {
        exchange.chunk(crate::support::event(data)).await;
        assert_eq!(
            crate::support::soon(body.next()).await.unwrap().unwrap(),
            crate::support::event(data)
        );
    }
    drop(exchange);
    assert!(crate::support::soon(body.next()).await.unwrap().is_err());
}

#[test]
fn r11_types_have_the_expected_auto_traits() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn body<T: Send + Sync + 'static>() {}
    fn sent<T: Send>() {}
    shared::<SseProxyLayer>();
    shared::<SseProxy<Router>>();
    body::<SseBody<hyper::body::Incoming>>();
    body::<SseBody<Full<Bytes>>>();
    sent::<
        ResponseFuture<
            std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>,
            Full<Bytes>,
            Infallible,
        >,
    >();
    body::<tower_sse_proxy::Error>();
    body::<Event>();
}

/// A body that is not `Unpin`.
struct Pinned(Option<Bytes>, PhantomPinned);

impl Body for Pinned {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Returns the same frame on every poll, because a pinned value cannot be moved out.
        Poll::Ready(self.0.clone().map(|data| Ok(Frame::data(data))))
    }
}

#[tokio::test]
async fn bodies_need_not_be_unpin() {
    let pinned = Pinned(Some("data: 1\n\n".into()), PhantomPinned);
    let mut body = Box::pin(pass(&guarded(), pinned).await);
    let frame = body.frame().await.unwrap().unwrap();
    assert!(frame.into_data().unwrap().starts_with(b"data: 1\n\n"));
}
