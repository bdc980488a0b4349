//! Both ends of the wire, for tests that want to know what really travels on it.

#![allow(
    dead_code,
    unused_imports,
    reason = "every test file uses its part of this"
)]

mod body;
mod client;
mod memory;
pub mod origin;
mod proxy;
mod reports;
mod upstream;
mod wire;
mod witness;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};

pub use body::{Broken, Script, Step, Taken};
pub use client::{Answer, BOTH, Ended, Protocol, Read, connect, fetch, get, post};
pub use memory::{
    Open, is_silent, layer, next, open, pass, respond, rest, through, with_free_paths,
};
pub use origin::{Asked, Call, Client, Fed, Feed, Front, Origin, data, field, staged};
pub use proxy::{forward, proxy, serve};
pub use reports::{Report, Reports, reports, subscribe};
pub use upstream::{Exchange, Upstream, chunk, sse, sse_chunked};
pub use wire::{Chunk, Wire};
pub use witness::{Deny, Note, Notes, SECRET, Witness, witness, witnessed};

/// The time in which anything that ought to happen has happened, even on a busy machine. Nothing waits for it
/// unless it fails.
pub async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("what was waited for did not happen")
}

/// An event stream's head around a body.
pub fn event_stream<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let mime = "text/event-stream".parse().unwrap();
    response.headers_mut().insert(CONTENT_TYPE, mime);
    response
}

/// An event of this data, as it stands on the wire.
pub fn event(data: &str) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// Whether the text is anywhere in what a client got, however leniently it reads: raw, with bytes that are
/// not UTF-8 replaced, or with them left out.
pub fn readable(bytes: &[u8], text: &str) -> bool {
    let ignoring: String = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect();
    ignoring.contains(text) || String::from_utf8_lossy(bytes).contains(text)
}
