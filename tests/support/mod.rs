//! Clients, upstreams and interceptors for tests. Tests over sockets see the exact bytes on the wire.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses only some of these helpers"
)]

mod body;
mod cases;
mod client;
mod log;
mod memory;
mod metrics;
pub mod origin;
mod proxy;
mod records;
mod reports;
mod streams;
mod upstream;
mod wire;
mod witness;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};

pub use body::{Broken, Script, Step, Taken};
pub use cases::cases;
pub use client::{Answer, BOTH, Ended, Protocol, Read, connect, fetch, get, post};
pub use log::Log;
pub use memory::{
    Open, is_silent, layer, next, open, pass, respond, rest, through, with_free_paths,
};
pub use metrics::{Recorded, recorder};
pub use origin::{Call, Client, FedBody, Feed, Front, Origin, OriginService, data, field, staged};
pub use proxy::{forward, forward_http2, proxy, serve};
pub use records::{Records, recorded};
pub use reports::{Report, Reports, reports, subscribe};
pub use streams::close;
pub use upstream::{Exchange, Flood, Upstream, chunk, sse, sse_chunked};
pub use wire::{Chunk, Wire};
pub use witness::{Deny, Note, Notes, SECRET, Witness, witness, witnessed_layer};

/// Waits for a future. Panics after 20 s, which is enough on a busy machine; only a failing test waits that long.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("no result within 20 s")
}

/// A 200 response with this body and the content type of an event stream.
pub fn event_stream<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let mime = "text/event-stream".parse().unwrap();
    response.headers_mut().insert(CONTENT_TYPE, mime);
    response
}

/// The wire form of an event with one `data` line.
pub fn event(data: &str) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// Whether a client can find `text` in these bytes, even if it decodes leniently: ill-formed UTF-8 is either
/// replaced or left out.
pub fn readable(bytes: &[u8], text: &str) -> bool {
    let left_out: String = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect();
    left_out.contains(text) || String::from_utf8_lossy(bytes).contains(text)
}
