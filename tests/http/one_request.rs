//! One client request causes exactly one upstream request, whatever the response is.

use std::{convert::Infallible, future::poll_fn, task::Poll};

use crate::support::{
    BOTH, Chunk, Ended, Read, Script, Upstream, connect, event_stream, get, post, proxy, soon, sse,
    sse_chunked,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};
use tower_sse_proxy::{Event, SseProxyLayer, intercept::Verdict};
use tower_test::mock;

fn layers() -> [SseProxyLayer; 2] {
    let failing = |event: Event| match &*event.data() {
        "fail" => Verdict::fail("event says fail"),
        _ => event.into(),
    };
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().intercept(failing),
    ]
}

/// Responses that must not cause a second upstream request, whether they succeed, fail or are rejected.
fn answers() -> [Vec<u8>; 9] {
    let with = |head: &str, body: &str| {
        format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}").into_bytes()
    };
    [
        sse("data: 1\n\n"),
        sse("data: fail\n\n"),
        with(
            "200 OK\r\ncontent-type: application/json\r\ncontent-length: 2",
            "{}",
        ),
        with(
            "500 Internal Server Error\r\ncontent-type: text/event-stream",
            "data: 1\n\n",
        ),
        with("502 Bad Gateway\r\ncontent-length: 0", ""),
        with(
            "307 Temporary Redirect\r\nlocation: /other\r\ncontent-length: 0",
            "",
        ),
        with(
            "302 Found\r\nlocation: /other\r\ncontent-type: text/event-stream",
            "data: 1\n\n",
        ),
        with(
            "200 OK\r\ncontent-type: text/event-stream; charset=utf-16",
            "data: 1\n\n",
        ),
        with(
            "200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99",
            "data: 1\n\n",
        ),
    ]
}

#[tokio::test]
async fn r10_each_response_takes_one_upstream_request() {
    for layer in layers() {
        for answer in answers() {
            for protocol in BOTH {
                for posted in [false, true] {
                    let mut upstream = Upstream::start().await;
                    let proxy = proxy(layer.clone(), upstream.address).await;
                    let ask = async {
                        let body = if posted { "the question" } else { "" };
                        let answer = match posted {
                            true => post(protocol, proxy, body).await,
                            false => get(protocol, proxy).await,
                        };
                        answer.rest().await
                    };
                    let reply = async {
                        let mut exchange = upstream.next().await;
                        let body = exchange.body().await;
                        assert_eq!(body, if posted { "the question" } else { "" });
                        exchange.write(&answer).await;
                        exchange.wire.finish().await;
                        exchange.closed().await
                    };
                    let (_, extra) = tokio::join!(ask, reply);
                    assert_eq!(extra, "", "second request on the same connection");
                    assert_eq!(upstream.requests(), 1, "{}", answer.escape_ascii());
                }
            }
        }
    }
}

#[tokio::test]
async fn r10_streamed_request_body_is_forwarded_once_without_buffering() {
    for layer in layers() {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(layer, upstream.address).await;
        let mut client = connect(proxy).await;
        let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write(head).await;
        let mut exchange = upstream.next().await;
        for part in ["one ", "two ", "three"] {
            client.write(crate::support::chunk(part.as_bytes())).await;
            assert_eq!(exchange.wire.chunk().await, Chunk::Data(part.into()));
        }
        client.write("0\r\n\r\n").await;
        assert_eq!(exchange.wire.chunk().await, Chunk::Last(String::new()));
        exchange.write(sse("data: done\n\n")).await;
        exchange.wire.finish().await;
        assert_eq!(
            exchange.closed().await,
            "",
            "second request on the same connection"
        );
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(upstream.requests(), 1);
    }
}

#[tokio::test]
async fn broken_stream_is_not_requested_again() {
    for layer in layers() {
        for protocol in BOTH {
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer.clone(), upstream.address).await;
            let ask = async {
                let mut answer = get(protocol, proxy).await;
                answer.expect("data: 1\n\n").await;
                answer.read().await
            };
            let reply = async {
                let mut exchange = upstream.next().await;
                exchange.write(sse_chunked()).await;
                exchange.chunk("data: 1\n\n").await;
                exchange.wire.reset();
            };
            let (ended, ()) = tokio::join!(ask, reply);
            assert_eq!(ended, Read::Over(Ended::Cut));
            assert_eq!(upstream.requests(), 1);
        }
    }
}

type ScriptedResponse = Response<Script>;

/// The mock panics if it is called without being ready.
#[tokio::test]
async fn r11_call_uses_the_ready_service_and_not_a_clone() {
    for layer in layers() {
        let (service, mut handle) = mock::pair::<Request<()>, ScriptedResponse>();
        let mut service = layer.layer(service);
        handle.allow(0);
        let ready = poll_fn(|cx| Poll::Ready(service.poll_ready(cx).is_ready())).await;
        assert!(!ready, "the layer is ready before the service");

        handle.allow(1);
        let answer = {
            let _clone = service.clone();
            let ready = service.ready().await.unwrap();
            ready.call(Request::new(()))
        };
        let (_, reply) = soon(handle.next_request()).await.unwrap();
        reply.send_response(event_stream(Script::of(["data: 1\n\n"])));
        let body = answer.await.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "data: 1\n\n");

        // The call used the permit, so the next call needs another one.
        let ready = poll_fn(|cx| Poll::Ready(service.poll_ready(cx).is_ready())).await;
        assert!(!ready, "the layer is ready without polling the service");
    }
}

#[derive(Debug, PartialEq)]
struct Busy(u8);

#[tokio::test]
async fn service_errors_are_returned_unchanged() {
    let refusing =
        tower::service_fn(|_: Request<()>| async { Err::<Response<Full<Bytes>>, _>(Busy(7)) });
    for layer in layers() {
        let service = layer.layer(refusing);
        assert_eq!(
            service.oneshot(Request::new(())).await.unwrap_err(),
            Busy(7)
        );
    }

    #[derive(Clone)]
    struct NeverReady;
    impl Service<Request<()>> for NeverReady {
        type Response = Response<Full<Bytes>>;
        type Error = Busy;
        type Future = std::future::Ready<Result<Self::Response, Busy>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Busy>> {
            Poll::Ready(Err(Busy(9)))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            panic!("called without being ready")
        }
    }
    let mut service = SseProxyLayer::default().layer(NeverReady);
    assert_eq!(service.ready().await.unwrap_err(), Busy(9));
}

#[tokio::test]
async fn request_reaches_the_service_unchanged() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);
    for layer in layers() {
        let echo = tower::service_fn(|request: Request<Full<Bytes>>| async move {
            let (parts, body) = request.into_parts();
            assert_eq!(parts.extensions.get(), Some(&Mark(3)));
            assert_eq!(parts.headers["last-event-id"], "41");
            assert_eq!(parts.headers.get_all("x-twice").iter().count(), 2);
            assert_eq!(parts.uri.path_and_query().unwrap().as_str(), "/p?q=1");
            Ok::<_, Infallible>(Response::new(body))
        });
        let request = Request::post("http://host/p?q=1")
            .header("last-event-id", "41")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .extension(Mark(3));
        let request = request.body(Full::from("body")).unwrap();
        let response = layer.layer(echo).oneshot(request).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "body"
        );
    }
}
