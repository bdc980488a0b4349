//! How the gateway forwards requests to its upstream and treats the responses.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

use crate::proxy::{Body, Peer, Upstream};

/// Sends a request through the gateway to an upstream that answers with `answer`. Returns the request head at the upstream,
/// and the response of the gateway.
async fn exchange(
    request: http::request::Builder,
    answer: &'static str,
) -> (String, Response<Body>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let request_head = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let read = socket.read(&mut head).await.unwrap();
        socket.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head[..read].to_vec()).unwrap()
    });
    let origin = format!("http://{address}").parse().unwrap();
    let upstream = Upstream::new(&origin).unwrap();
    let body = Empty::<Bytes>::new().map_err(|never| match never {});
    let request = request.extension(Peer(address));
    let request = request.body(body.boxed()).unwrap();
    let answer = upstream.oneshot(request).await.unwrap();
    (request_head.await.unwrap(), answer)
}

async fn answer_to(wire: &'static str) -> Response<Body> {
    let request = Request::get("/").header("host", "gateway");
    exchange(request, wire).await.1
}

#[tokio::test]
async fn forwarded_host_of_the_client_is_replaced() {
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    let request_head = || Request::get("/").header("x-forwarded-host", "made-up");
    let (head, _) = exchange(request_head().header("host", "gateway"), EMPTY).await;
    assert!(head.contains("x-forwarded-host: gateway\r\n") && !head.contains("made-up"));
    // An HTTP/1.0 request may have no host.
    let nameless = request_head().version(Version::HTTP_10);
    let (head, _) = exchange(nameless, EMPTY).await;
    assert!(!head.contains("x-forwarded-host"), "{head}");
}

#[tokio::test]
async fn transfer_coding_other_than_chunked_gives_502() {
    for wire in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ] {
        let answer = answer_to(wire).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{wire}");
    }
    let answer =
        answer_to("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hi");
}
