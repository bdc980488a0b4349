//! Replay: what a stream has sent, for clients that come back.
//!
//! [`Replay`] says what is kept, for whom and for how long; [`SseProxyLayer::replay`](crate::SseProxyLayer::replay) installs it.
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
//! // Asked once, whatever becomes of the connection to its client.
//! let upstream = service_fn(|_: Request<()>| async {
//!     let answer = Full::<Bytes>::from("data: to be\n\ndata: or not\n\ndata: to be\n\ndata: [DONE]\n\n");
//!     Response::builder().header("content-type", "text/event-stream").body(answer)
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
//! Below it, for those who want no more than that, is the part without I/O: the [log](Log) of one stream, which is the only owner of
//! "which event was last", and the [ids](EventId) by which clients name where they are in it. A live tail, a replay, a slow client
//! and one of many are the same read of it at another place.
//!
//! ```
//! use tokio::time::Instant;
//! use tower_sse_proxy::replay::{Retention, ResumePoint, Log, ReadResult};
//!
//! let now = Instant::now();
//! let mut log = Log::new(Retention::default().events(2));
//! let one = log.append("id: a\ndata: 1\n\n".into(), now);
//! let two = log.append("id: b\ndata: 2\n\n".into(), now);
//! log.append("id: c\ndata: 3\n\n".into(), now);
//!
//! // There is room for two, and after the one that had to go comes the second.
//! let ResumePoint::After(cursor) = log.locate(one) else { panic!() };
//! let ReadResult::Block(block, cursor) = log.read(cursor) else { panic!() };
//! assert_eq!(block, "id: b\ndata: 2\n\n");
//!
//! log.append("id: d\ndata: 4\n\n".into(), now);
//! assert_eq!(log.locate(one), ResumePoint::Evicted);
//! assert!(matches!(log.locate(two), ResumePoint::After(again) if again == cursor));
//! ```

pub(crate) mod closed_streams;
pub(crate) mod coalesce;
pub(crate) mod config;
pub(crate) mod continuation_rules;
mod detached;
pub(crate) mod driver;
pub(crate) mod key;
pub(crate) mod on_demand;
pub(crate) mod pending_resume;
mod quota;
pub(crate) mod recorded_stream;
mod registry;
pub(crate) mod resume_gate;
mod streams;
pub(crate) mod subscription;
pub(crate) mod writer;

#[cfg(loom)]
#[doc(hidden)]
pub use crate::log::model;
pub use crate::log::{
    Cursor, EventId, Log, LogState, MalformedEventId, Position, ReadResult, ResumePoint, Retention,
    StartAt, StreamId,
};
pub use config::{Gap, Replay};

pub(crate) use closed_streams::ClosedStreams;
pub(crate) use detached::{Detached, DetachedSlot};
pub(crate) use quota::{Account, Quota};
pub(crate) use registry::{LogRegistry, Record};
pub(crate) use streams::RecordedStreams;
