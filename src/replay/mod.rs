//! Recorded streams: a client that reconnects with `Last-Event-ID` misses no event.
//!
//! [`Replay`] configures which streams are recorded, which clients can resume them, and for how long.
//! [`SseProxyLayer::replay`](crate::SseProxyLayer::replay) installs it.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_proxy::{SseProxyLayer, replay::Replay};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The upstream gets one request, although the connection to the client breaks.
//! let upstream = service_fn(|_: Request<()>| async {
//!     let body = Full::<Bytes>::from("data: to be\n\ndata: or not\n\ndata: to be\n\ndata: [DONE]\n\n");
//!     Response::builder().header("content-type", "text/event-stream").body(body)
//! });
//! let proxy = SseProxyLayer::default().replay(Replay::default()).layer(upstream);
//!
//! let response = proxy.clone().oneshot(Request::post("/chat").body(())?).await?;
//! let text = response.into_body().collect().await?.to_bytes();
//! let text = std::str::from_utf8(&text)?;
//! // The connection broke after the second event.
//! let second = text.lines().filter_map(|line| line.strip_prefix("id: ")).nth(1).unwrap();
//!
//! let again = Request::post("/chat").header("last-event-id", second).body(())?;
//! let response = proxy.oneshot(again).await?;
//! let rest = response.into_body().collect().await?.to_bytes();
//! let data: Vec<_> = std::str::from_utf8(&rest)?.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
//! assert_eq!(data, ["to be", "[DONE]"]);
//! # Ok(()) }
//! ```
//!
//! A recorded stream has a log of its last events, bounded by a [`Retention`], and one task that writes it, also while no client is
//! connected. Clients read the log from a cursor: live reading, catching up, resuming and sharing are one operation. An
//! [`EventId`] names the stream and the position in it, so that a client resumes by sending its request again with `Last-Event-ID`.

pub(crate) mod closed_streams;
pub(crate) mod config;
pub(crate) mod continuation_rules;
mod detached_slots;
pub(crate) mod driver;
pub(crate) mod key;
pub(crate) mod lifetime;
mod observed_writer;
pub(crate) mod on_demand;
pub(crate) mod pending_resume;
mod quota;
pub(crate) mod recorded_stream;
mod registry;
pub(crate) mod resume_gate;
pub(crate) mod single_flight;
mod streams;
mod subscription;
mod writer;

#[cfg(loom)]
#[doc(hidden)]
pub use crate::log::model;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use crate::log::testing as log_testing;
pub use crate::{
    log::{EventId, MalformedEventId, Retention, StartAt},
    stream_id::{MalformedStreamId, StreamId},
};
pub use config::{Gap, Replay};

pub(crate) use closed_streams::ClosedStreams;
pub(crate) use detached_slots::Detached;
pub(crate) use quota::{Account, Quota};
pub(crate) use registry::{LogRegistry, Registered};
pub(crate) use streams::RecordedStreams;
pub(crate) use subscription::Subscription;
