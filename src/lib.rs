//! A [Tower](tower_service) layer that reads event streams (Server-Sent Events, `text/event-stream`) event by event while they
//! stream through a service.
//!
//! [`SseProxyLayer`] wraps any service that answers with event streams: an axum router, a tonic server, a hyper or reqwest client in
//! front of an upstream. Interceptors see each event and can edit it, drop it, delay it, add to it, or end the stream. The layer
//! buffers one event at a time, and forwards events that no interceptor changes byte-identical. On demand, JSON bodies pass the same
//! interceptors as one event.
//!
//! It also maps session ids between clients and upstreams, records streams so that clients can resume them with `Last-Event-ID`,
//! and reconnects when an upstream connection breaks.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_proxy::{Event, SseProxyLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Usually a router, or a client of an upstream.
//! let upstream = service_fn(|_: Request<()>| async {
//!     let stream = "data: the password is hunter2\n\n: a comment\n\nid: 7\ndata: bye\n\n";
//!     Response::builder()
//!         .header("content-type", "text/event-stream")
//!         .body(Full::<Bytes>::from(stream))
//! });
//!
//! let mut proxy = SseProxyLayer::default()
//!     .intercept(|mut event: Event| {
//!         if event.data().contains("hunter2") {
//!             event.set_data("the password is *******");
//!         }
//!         event
//!     })
//!     .layer(upstream);
//!
//! let response = proxy.ready().await?.oneshot(Request::new(())).await?;
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!(body, "data: the password is *******\n\n: a comment\n\nid: 7\ndata: bye\n\n");
//! # Ok(()) }
//! ```
//!
//! # Which part for which task
//!
//! | Task | Use |
//! |---|---|
//! | Read or edit each event | [`SseProxyLayer::intercept`] with a function `Fn(Event) -> impl Into<Verdict>` |
//! | See every byte, including comments, ids and unknown fields | [`Interceptor`](intercept::Interceptor) |
//! | Keep state for each stream | a function `Fn(&StreamHead) -> Option<impl Interceptor>` |
//! | Mask or block text that is split over events | [`TextWindow`](intercept::TextWindow), with `patterns` or a judge |
//! | Proxy event streams without editing them | [`SseProxyLayer::keep_alive`], [`SseProxyLayer::max_event_bytes`]; a layer without any setting changes nothing |
//! | Let interceptors see JSON bodies, too | [`SseProxyLayer::inspect_json`] |
//! | Read and edit JSON data | [`Json`](intercept::Json) |
//! | Ask another service about each event | [`ServiceInterceptor`](intercept::ServiceInterceptor) |
//! | Use other rules for some requests | [`SseProxyLayer::policy`] |
//! | Map client session ids to upstream session ids | [`SseProxyLayer::sessions`], [`session`] |
//! | Let clients resume streams; detach, share or stop streams | [`SseProxyLayer::replay`], [`replay`] |
//! | Reconnect when the upstream connection breaks | [`SseProxyLayer::reconnect`], [`reconnect`] |
//! | Proxy MCP servers | [`profile::Mcp`] |
//! | Let MCP clients continue when their server has lost its sessions | [`profile::heal`] |
//! | List, close, tap and drain the open streams | [`SseProxyLayer::streams`] |
//! | Limit the number, the silence or the age of streams | [`SseProxyLayer::max_streams`], [`SseProxyLayer::watchdog`] |
//! | Log or measure how streams end | [`SseProxyLayer::on_close`], [`observe`] |
//! | Parse or write events without HTTP | [`codec`] |
//!
//! # Guides
//!
//! * [Guardrails](guide::guardrails): mask or block text in the streamed answers of model APIs.
//! * [MCP gateway](guide::mcp_gateway): sessions, origin check and interceptors for MCP servers.
//! * [Resumable answers](guide::resumable_answers): answers that are paid for once, whatever happens to the connection.
//! * [Operating a gateway](guide::operating): logs, limits, memory, shutdown, and several nodes.
//!
//! # Promises
//!
//! 1. An event that no interceptor edits is forwarded byte-identical, except for its id with [`replay`], mapped session ids, and
//!    ill-formed UTF-8. The way in which the upstream cuts the stream into chunks does not change the output.
//! 2. No byte of an event stream reaches the client without passing the interceptors, under any input, encoding, error or limit, and
//!    with [`inspect_json`](SseProxyLayer::inspect_json) no byte of a JSON body.
//! 3. Each client gets each event at most once and in order. With [`replay`] it gets each event exactly once within the retention,
//!    and beyond it a reported gap. A clean end is never followed by the same events again.
//! 4. One request to the layer is one request to the service, unless [`reconnect`] is on; only `GET` requests are repeated, unless a
//!    predicate of yours allows others. [Healing](profile::heal) also repeats MCP requests that only read. A client disconnect cancels
//!    the request, unless the stream is [detached](replay::Replay::grace_period).
//! 5. Memory is bounded by configuration, for any upstream, any reader and any number of clients. One owner cannot use up another
//!    owner's share.
//! 6. Another owner's session ids and event ids are indistinguishable from unknown ones.
//! 7. No input of an upstream or a client makes the layer panic or spin.
//! 8. The body of a response that is not an event stream is not touched, nor is its head, except for session ids. The same holds for a
//!    JSON body that interceptors see and do not change.
//! 9. A stream that breaks looks broken: the events before the break arrive, and then the connection is cut (HTTP/1.1) or the stream is
//!    reset (HTTP/2).
//!
//! # Features
//!
//! All are off by default: without features, the crate parses, edits and forwards event streams.
//!
//! | Feature | Adds | Enables |
//! |---|---|---|
//! | `decompression` | decoding of gzip, deflate, br and zstd bodies, so that interceptors can read them; without it, the layer answers with 502 instead of such a stream while interceptors or replay are installed, and instead of such a JSON body that interceptors are set to see; otherwise it passes both through | |
//! | `mcp` | [`profile::Mcp`], the rules of the Model Context Protocol by the revision of each request | `replay`, `sessions` |
//! | `metrics` | `observe::Metrics`, metrics of all streams for Prometheus and others (`metrics`) | |
//! | `patterns` | phrases, regular expressions, card numbers and e-mail addresses as a judge for the text window (`regex-automata`) | `window` |
//! | `reconnect` | [`SseProxyLayer::reconnect`], which continues streams whose upstream connection breaks | |
//! | `replay` | [`SseProxyLayer::replay`], recorded streams that clients resume with `Last-Event-ID` | |
//! | `sealed` | `session::SealedStore`, which keeps sessions in their encrypted ids, for several nodes without a common store | `sessions` |
//! | `serde` | `Serialize` and `Deserialize` for [`session::Session`], for stores outside of the process | `sessions` |
//! | `sessions` | [`SseProxyLayer::sessions`], session ids that are mapped between clients and upstreams, each bound to its owner | |
//! | `testing` | `session::testing`, the contract tests for session stores | `sessions` |
//! | `window` | [`intercept::TextWindow`], which judges text that is split over events, and extractors for model APIs | |
//!
//! The README says how many crates and how much build time each feature adds.
//!
//! # Not for
//!
//! Request bodies, and responses that are neither event streams nor JSON.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]
// Some functions are only used by optional features, and the documentation links to items of all features.
#![cfg_attr(
    not(all(feature = "mcp", feature = "reconnect", feature = "window")),
    allow(
        dead_code,
        rustdoc::broken_intra_doc_links,
        rustdoc::private_intra_doc_links
    )
)]

pub mod codec;
#[cfg(all(
    any(doc, doctest),
    feature = "mcp",
    feature = "reconnect",
    feature = "window"
))]
pub mod guide;
pub mod intercept;
pub mod observe;
pub mod profile;
pub mod reconnect;
#[cfg(feature = "replay")]
pub mod replay;
pub mod session;
pub mod streams;

mod body;
mod downstream;
mod error;
mod exchange;
mod future;
mod headers;
mod layer;
mod live;
#[cfg_attr(not(feature = "replay"), path = "log/none.rs")]
mod log;
mod policy;
mod rejection;
#[cfg(not(feature = "replay"))]
#[path = "replay/none.rs"]
mod replay;
mod service;
mod state;
mod stream_id;
mod timer;
mod upstream;

pub use body::SseBody;
pub use codec::{Event, OversizedEvent};
pub use downstream::keep_alive::KeepAlive;
pub use error::{Error, ErrorKind};
pub use future::ResponseFuture;
pub use headers::content_type::is_event_stream;
pub use layer::SseProxyLayer;
pub use live::Watchdog;
pub use policy::Policy;
pub use service::SseProxy;
pub use streams::Streams;

/// The README's examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
