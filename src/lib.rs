//! A [Tower](tower_service) layer that looks inside event streams (Server-Sent Events, `text/event-stream`) while
//! they flow.
//!
//! [`SseProxyLayer`] wraps any service that answers with event streams: an axum router, a tonic server, a hyper or
//! reqwest client in front of an upstream. Your code sees every event, one by one, and may edit it, drop it, hold it
//! back, add to it, or end the stream. Nothing is buffered beyond the event that is being read.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_proxy::{Event, SseProxyLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In real life: a router, or a client that asks an upstream.
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
//! # Where to start
//!
//! * [`SseProxyLayer`]: what happens to a stream, and all settings.
//! * [`intercept`]: the ways to write an interceptor, from a function to a tower service.
//! * [`reconnect`]: an upstream that breaks off.
//! * [`replay`]: what a client has missed that comes back.
//! * [`session`]: sessions of clients, mapped to those of the upstream.
//! * [`profile`]: policies that are ready: the Model Context Protocol.
//! * [`codec`]: events and the decoder, of use without HTTP too.
//! * [`Policy`]: different rules for different requests.
//!
//! # Promises
//!
//! 1. An event that nobody edited leaves byte-identical, however it was cut into chunks.
//! 2. No byte of an event stream reaches the client without having gone through the interceptors, under any input,
//!    encoding, error or limit.
//! 3. Each client sees each event at most once, in order; with [`replay`], exactly once over any pattern of disconnects within what
//!    is kept, and beyond that it is told of a gap.
//! 4. One request to the layer is one request to the service, unless [`reconnect`] is on, and a client that leaves cancels it, unless it is to be
//!    [kept](replay::Replay::grace_period).
//! 5. Memory is bounded by configuration, for any upstream and any reader.
//! 6. Another owner's ids of sessions and events are indistinguishable from unknown ones.
//! 7. Nothing an upstream or a client sends can make it panic or spin.
//! 8. A response that is not an event stream is not touched.
//!
//! # Features
//!
//! * `decompression` (off): decodes gzip, deflate, br and zstd streams, so that they can be inspected. Without it
//!   such a stream is refused with 502 while interceptors are installed, and passed through while none are.
//! * `patterns` (off): phrases, regular expressions, card numbers and e-mail addresses as a judge for the text window, on
//!   `regex-automata`.
//! * `sealed` (off): `SealedStore`, for several nodes without a common store.
//! * `serde` (off): `Serialize` and `Deserialize` for [`session::Session`], for stores outside of the process.
//! * `testing` (off): `session::testing`, the tests that every session store has to pass.
//!
//! # Not for
//!
//! Changing request bodies, and bodies that are not event streams.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(unreachable_pub)]

pub mod codec;
pub mod intercept;
pub mod profile;
pub mod reconnect;
pub mod replay;
pub mod session;

mod body;
mod downstream;
mod error;
mod exchange;
mod future;
mod headers;
mod layer;
mod log;
mod observe;
mod policy;
mod rejection;
mod service;
mod timer;
mod upstream;

pub use body::SseBody;
pub use codec::Event;
pub use downstream::keep_alive::KeepAlive;
pub use error::{Error, ErrorKind};
pub use future::ResponseFuture;
pub use headers::content_type::is_event_stream;
pub use layer::SseProxyLayer;
pub use policy::Policy;
pub use service::SseProxy;

/// The README's examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
