//! What the gateway makes of the answers of its upstream.

#[path = "../examples/gateway/proxy.rs"]
mod proxy;
#[path = "../examples/gateway/tunnel.rs"]
mod tunnel;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::ServiceExt;

/// The gateway's answer to a request, where this is what the upstream sends.
async fn answer_to(wire: &'static str) -> Response<proxy::Body> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 1024]).await;
        socket.write_all(wire.as_bytes()).await.unwrap();
    });
    let origin = format!("http://{address}").parse().unwrap();
    let upstream = proxy::Upstream::new(&origin).unwrap();
    let mut request = Request::get("/").header("host", "gateway");
    let extensions = request.extensions_mut().unwrap();
    extensions.insert(proxy::Peer(address));
    let body = Empty::<Bytes>::new().map_err(|never| match never {});
    upstream
        .oneshot(request.body(body.boxed()).unwrap())
        .await
        .unwrap()
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
