//! Responses that have no body by their status or the method of the request (RFC 9110 9.3.2, 15.3.5, 15.4.5). hyper's HTTP/2 client and server
//! pass a body that a service sends all the same, so that the layer must not forward it past the interceptors.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower::Layer;
use tower_sse_proxy::{SseProxyLayer, replay::Replay, session::SessionMapping};

use crate::support::{BOTH, Deny, SECRET, fetch, forward_http2, serve};

const TYPES: [&str; 2] = ["text/event-stream", "application/json"];

/// The answer with the status and the type in the URI, and always with a body.
fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind) = request.uri().query().unwrap().split_once('&').unwrap();
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("etag", "\"1\"")
        .body(Full::new(Bytes::from(format!("data: {SECRET}\n\n"))))
        .unwrap()
}

/// An HTTP/2 upstream.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service =
        service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(answer(&request)));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
        }
    });
    address
}

/// Layers that let no secret pass.
fn layers() -> [SseProxyLayer; 3] {
    let layer = SseProxyLayer::default()
        .inspect_json(1000)
        .intercept(Deny::opened);
    let sessions = SessionMapping::header("mcp-session-id".parse().unwrap());
    [
        layer.clone(),
        layer.clone().replay(Replay::default()),
        layer.sessions(sessions),
    ]
}

#[tokio::test]
async fn body_of_a_status_without_one_is_not_forwarded_past_the_interceptors() {
    let upstream = upstream().await;
    for layer in layers() {
        let proxy = serve(layer.layer(forward_http2(upstream))).await;
        for protocol in BOTH {
            for kind in TYPES {
                for status in [204, 304] {
                    let request = Request::get(format!("http://test/?{status}&{kind}"));
                    let request = request.body(Bytes::new()).unwrap();
                    let answer = fetch(protocol, proxy, request).await;
                    assert_eq!(answer.status, status);
                    assert_eq!(answer.headers["etag"], "\"1\"");
                    let (body, _) = answer.rest().await;
                    assert_eq!(body, "", "{protocol:?} {status} {kind}");
                }
            }
        }
    }
}

/// hyper's client fails if an HTTP/2 upstream sends a body to `HEAD`, but not each service is a client.
#[tokio::test]
async fn body_of_a_response_to_head_is_not_forwarded_past_the_interceptors() {
    for layer in layers() {
        let service = tower::service_fn(async |request| Ok::<_, Infallible>(answer(&request)));
        let proxy = serve(layer.layer(service)).await;
        for protocol in BOTH {
            for kind in TYPES {
                let request = Request::head(format!("http://test/?200&{kind}"));
                let request = request.body(Bytes::new()).unwrap();
                let answer = fetch(protocol, proxy, request).await;
                assert_eq!(answer.headers["content-type"], kind);
                let (body, _) = answer.rest().await;
                assert_eq!(body, "", "{protocol:?} {kind}");
            }
        }
    }
}
