//! Faults and attacks of peers, as raw bytes on the sockets of the gateway. `tests/faults.md` lists them.

mod detection;
mod framing;
mod headers;
mod informational;
#[cfg(target_os = "linux")]
mod memory;
mod timing;
mod upgrades;

use std::net::SocketAddr;

use http::Method;

use crate::{
    serving::gateway,
    support::{SECRET, Upstream, Wire, connect},
};

/// A path on each kind of route.
const ROUTES: [&str; 5] = ["/s/a", "/r/a", "/f/a", "/mcp", "/a"];

/// Starts an upstream, and a gateway that drops each block with [`SECRET`].
async fn guarded() -> (SocketAddr, Upstream) {
    let upstream = Upstream::start().await;
    let variables = [("SSEP_DENY", SECRET), ("SSEP_ALLOWED_HOSTS", "test")];
    (gateway(&variables, upstream.address).await, upstream)
}

/// Opens a connection and sends the head of a request with these header lines.
async fn ask(gateway: SocketAddr, method: Method, path: &str, lines: &str) -> Wire {
    let mut client = connect(gateway).await;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
    client.write(head).await;
    client
}

/// A response with a body of this length, after which the connection stays open.
fn sized(fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{fields}content-length: {length}\r\n\r\n{body}")
}
