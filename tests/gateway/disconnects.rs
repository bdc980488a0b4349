//! Clients that disconnect while nothing is written to them.

use bytes::Bytes;
use http::{Method, Request};

use crate::{
    serving::gateway,
    support::{BOTH, Protocol, Upstream, connect, fetch, soon, sse_chunked},
};

/// Paths of streams that the gateway cancels when the client disconnects: a plain path, and an MCP path, with the revision in a header.
const PATHS: [&str; 2] = ["/s/a", "/mcp"];

const REVISION: &str = "2026-07-28";

#[derive(Clone, Copy, Debug)]
enum Leave {
    /// HTTP/1.1: FIN. HTTP/2: RST_STREAM, and the connection stays open.
    Close,
    /// Resets the TCP connection.
    Reset,
}

const LEAVES: [Leave; 2] = [Leave::Close, Leave::Reset];

fn body(method: &Method) -> &'static str {
    if method == Method::POST { "{}" } else { "" }
}

#[tokio::test]
async fn r31_client_that_disconnects_from_a_silent_stream_closes_the_upstream_connection() {
    let mut upstream = Upstream::start().await;
    // The clients of the tests send this host.
    let gateway = gateway(&[("SSEP_ALLOWED_HOSTS", "test")], upstream.address).await;
    for path in PATHS {
        for method in [Method::GET, Method::POST] {
            for protocol in BOTH {
                for leave in LEAVES {
                    for events in ["", "data: 1\n\n", "data: half"] {
                        let request = Request::builder().method(&method).uri(path);
                        let request = request.header("mcp-protocol-version", REVISION);
                        let request = request.body(Bytes::from(body(&method))).unwrap();
                        let asking = tokio::spawn(fetch(protocol, gateway, request));
                        let mut exchange = upstream.next().await;
                        assert_eq!(exchange.body().await, body(&method));
                        exchange.write(sse_chunked()).await;
                        if !events.is_empty() {
                            exchange.chunk(events).await;
                        }
                        let mut client = asking.await.unwrap();
                        assert_eq!(client.status, 200);
                        if events.ends_with("\n\n") {
                            client.expect(events).await;
                        }
                        let _connection = match leave {
                            Leave::Close => client.leave(),
                            Leave::Reset => {
                                client.reset();
                                None
                            }
                        };
                        let sent = soon(exchange.closed()).await;
                        assert_eq!(sent, "", "{path} {method} {protocol:?} {leave:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn r31_client_that_disconnects_before_the_head_closes_the_upstream_connection() {
    let mut upstream = Upstream::start().await;
    let gateway = gateway(&[("SSEP_ALLOWED_HOSTS", "test")], upstream.address).await;
    for path in PATHS {
        for method in [Method::GET, Method::POST] {
            let body = body(&method);
            for leave in LEAVES {
                let mut client = connect(gateway).await;
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nhost: test\r\nmcp-protocol-version: {REVISION}\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                client.write(head).await;
                let mut exchange = upstream.next().await;
                assert_eq!(exchange.body().await, body);
                match leave {
                    Leave::Close => drop(client),
                    Leave::Reset => client.reset(),
                }
                soon(exchange.closed()).await;
            }
            let request = Request::builder().method(&method).uri(path);
            let request = request.header("mcp-protocol-version", REVISION);
            let request = request.body(Bytes::from(body)).unwrap();
            let asking = tokio::spawn(fetch(Protocol::Http2, gateway, request));
            let mut exchange = upstream.next().await;
            assert_eq!(exchange.body().await, body);
            asking.abort();
            soon(exchange.closed()).await;
        }
    }
}
