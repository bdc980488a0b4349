//! The gateway's `--listen` setting, and clients that shut down their sending side and still read.

use std::net::SocketAddr;

use crate::{
    proxy,
    server::{bind, serve},
    settings::Settings,
    support::{Exchange, Upstream, soon, sse_chunked},
};
use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::Layer;
use tower_sse_proxy::{SseProxyLayer, codec::OversizedEvent};

async fn gateway(upstream: SocketAddr) -> SocketAddr {
    let settings = Settings::try_parse_from(["gateway", "--listen", "localhost:0"]).unwrap();
    let listener = bind(&settings.listen, "--listen").unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = proxy::Upstream::new(&format!("http://{upstream}").parse().unwrap()).unwrap();
    let layer = SseProxyLayer::default().oversized_event(OversizedEvent::Fail);
    let (service, streams) = (layer.layer(upstream), layer.streams());
    tokio::spawn(async move { serve(listener, service, streams, &settings).await });
    address
}

/// Sends a request and shuts down the sending side. Returns the client, and the exchange at the upstream.
async fn half_closed(request: &str) -> (TcpStream, Exchange) {
    let mut upstream = Upstream::start().await;
    let mut client = TcpStream::connect(gateway(upstream.address).await)
        .await
        .unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    (client, upstream.next().await)
}

async fn until(client: &mut TcpStream, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let mut some = [0; 1024];
        let count = soon(client.read(&mut some)).await.unwrap();
        assert!(count > 0, "closed after {read:?}");
        read += std::str::from_utf8(&some[..count]).unwrap();
    }
}

const GET: &str = "GET /s/x HTTP/1.1\r\nhost: gateway\r\n\r\n";

#[tokio::test]
async fn half_closed_client_gets_its_response() {
    for request in [
        GET,
        "GET / HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: gateway\r\ncontent-length: 2\r\n\r\n{}",
        "GET / HTTP/1.1\r\nhost: gateway\r\n\r\n\r\n",
    ] {
        let (mut client, mut exchange) = half_closed(request).await;
        exchange
            .write(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello ",
            )
            .await;
        until(&mut client, "hello ").await;
        exchange.write("client").await;
        let mut rest = Vec::new();
        soon(client.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"client", "{request}");
    }
}

#[tokio::test]
async fn half_closed_client_gets_a_silent_stream_to_its_end() {
    for request in [GET, "GET /s/x HTTP/1.0\r\n\r\n"] {
        let (mut client, mut exchange) = half_closed(request).await;
        exchange.write(sse_chunked()).await;
        exchange.chunk("data: 1\n\n").await;
        until(&mut client, "data: 1\n\n").await;
        // Comments on the silent stream detect whether the client still reads.
        for _ in 0..2 {
            until(&mut client, ":\n\n").await;
        }
        exchange.chunk("data: 2\n\n").await;
        until(&mut client, "data: 2\n\n").await;
        exchange.write("0\r\n\r\n").await;
        let mut rest = Vec::new();
        soon(client.read_to_end(&mut rest)).await.unwrap();
    }
}

#[test]
fn listen_setting_is_a_host_and_a_port() {
    let listen = |value| Settings::try_parse_from(["gateway", "--listen", value]);
    let localhost = listen("localhost:18080").unwrap().listen;
    let first = localhost.addresses[0];
    assert!(first.ip().is_loopback() && first.port() == 18080);
    assert_eq!(
        listen("127.0.0.1:7").unwrap().listen.addresses,
        ["127.0.0.1:7".parse().unwrap()]
    );
    assert_eq!(
        listen("[::1]:7").unwrap().listen.addresses,
        ["[::1]:7".parse().unwrap()]
    );
    for wrong in [
        "localhost",
        "18080",
        ":18080",
        "localhost:port",
        "localhost:70000",
    ] {
        let error = listen(wrong).unwrap_err().to_string();
        assert!(error.contains("host:port"), "{wrong}: {error}");
    }
}
