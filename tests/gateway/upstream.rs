//! What the gateway makes of the answers of its upstream.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

use crate::proxy::{Body, Peer, Upstream};

/// What the upstream gets of a request, and the gateway's answer to it, where this is what the upstream sends.
async fn exchange(
    request: http::request::Builder,
    answer: &'static str,
) -> (String, Response<Body>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
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
    (asked.await.unwrap(), answer)
}

async fn answer_to(wire: &'static str) -> Response<Body> {
    let request = Request::get("/").header("host", "gateway");
    exchange(request, wire).await.1
}

#[tokio::test]
async fn by_what_name_the_gateway_was_asked_is_not_for_the_client_to_say() {
    const NOTHING: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    let asked = || Request::get("/").header("x-forwarded-host", "made-up");
    let (head, _) = exchange(asked().header("host", "gateway"), NOTHING).await;
    assert!(head.contains("x-forwarded-host: gateway\r\n") && !head.contains("made-up"));
    // To HTTP/1.0 it may have no name.
    let nameless = asked().version(Version::HTTP_10);
    let (head, _) = exchange(nameless, NOTHING).await;
    assert!(!head.contains("x-forwarded-host"), "{head}");
}

#[tokio::test]
async fn a_transfer_coding_that_is_still_in_the_body_is_refused_wherever_it_is_named() {
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
