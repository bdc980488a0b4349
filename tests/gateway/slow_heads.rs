//! Clients that send the head of their request very slowly, or never.

use std::{net::SocketAddr, process::Command};

use bytes::Bytes;
use http::Request;

use crate::{
    serving::gateway,
    support::{BOTH, Upstream, Wire, connect, fetch, sse},
};

/// The time limit is shorter than the default, so that the test is short.
const LIMIT: [(&str, &str); 1] = [("SSEP_HEADER_TIMEOUT_MS", "3000")];

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 `SETTINGS` frame without settings.
const HTTP2_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// An HTTP/2 `HEADERS` frame for stream 1 that is not the last one of its head (RFC 9113 6.2): `:method: GET`.
const HTTP2_HEADERS: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];

/// The bytes that slow clients send before they wait.
fn beginnings() -> Vec<Vec<u8>> {
    let get = b"GET /s/a HTTP/1.1\r\nhost: gateway\r\n";
    let http2 = [HTTP2_PREFACE, HTTP2_SETTINGS].concat();
    vec![
        get.to_vec(),
        Vec::new(),
        b"G".to_vec(),
        b"\r\n".to_vec(),
        b"POST /s/a HTTP/1.1\r\nhost: gateway\r\ncontent-length: 2\r\nx-a".to_vec(),
        b"PR".to_vec(),
        HTTP2_PREFACE[..20].to_vec(),
        HTTP2_PREFACE.to_vec(),
        http2.clone(),
        [&http2, HTTP2_HEADERS].concat(),
    ]
}

/// The number of descriptors that this process may open.
fn descriptors() -> usize {
    let limit = Command::new("sh").args(["-c", "ulimit -n"]).output();
    let limit = String::from_utf8(limit.unwrap().stdout).unwrap();
    limit.trim().parse().unwrap_or(usize::MAX)
}

async fn is_served(gateway: SocketAddr) {
    for protocol in BOTH {
        let request = Request::get("/s/a").body(Bytes::new()).unwrap();
        let (text, ended) = fetch(protocol, gateway, request).await.rest().await;
        assert_eq!(text, "data: 1\n\n");
        assert!(ended.is_clean());
    }
}

#[tokio::test]
async fn r65_slow_heads_keep_no_other_client_out_and_are_closed() {
    let upstream = Upstream::answering(sse("data: 1\n\n")).await;
    let gateway = gateway(&LIMIT, upstream).await;
    // A client has one descriptor here, and the gateway two. Other tests of this process need some, too.
    let clients = 1000.min(descriptors() / 6);
    let beginnings = beginnings();
    let mut slow = Vec::new();
    for number in 0..clients {
        let mut client = connect(gateway).await;
        client.write(&beginnings[number % beginnings.len()]).await;
        slow.push(client);
    }
    is_served(gateway).await;
    // Another byte of a head does not extend the time limit.
    for client in slow.iter_mut().step_by(beginnings.len()) {
        let _ = client.try_write(b"x").await;
    }
    is_served(gateway).await;
    for mut client in slow {
        // The gateway may say why before it closes the connection.
        client.rest().await;
    }
}

#[tokio::test]
async fn r65_slow_head_of_a_second_request_is_closed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let upstream = Upstream::answering(answer).await;
    let gateway = gateway(&LIMIT, upstream).await;
    for beginning in ["", "G", "GET /s/a HTTP/1.1\r\nhost: gateway\r\n"] {
        let mut client: Wire = connect(gateway).await;
        client
            .write("GET /s/a HTTP/1.1\r\nhost: gateway\r\n\r\n")
            .await;
        client.head().await.unwrap();
        assert_eq!(client.exactly(2).await.unwrap(), "hi");
        client.write(beginning).await;
        client.rest().await;
    }
}
