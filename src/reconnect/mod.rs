//! Reconnects when the upstream connection breaks, so that the client sees one unbroken stream.
//!
//! The layer sends the request again with `Last-Event-ID`, and continues the stream with the response. [`Reconnect`] says which
//! requests it repeats and which responses count as failures; [`Backoff`] says how long it waits and when it stops.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, channel::Channel};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_proxy::{SseProxyLayer, reconnect::Backoff};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // An upstream whose connection breaks after each event, and that continues after `Last-Event-ID`.
//! let upstream = service_fn(|request: Request<String>| async move {
//!     let last = request.headers().get("last-event-id").map_or("0", |id| id.to_str().unwrap());
//!     let next = last.parse::<u32>().unwrap() + 1;
//!     let (mut feed, body) = Channel::<Bytes, std::io::Error>::new(2);
//!     let event = if next > 3 { "data: [DONE]\n\n".into() } else { format!("id: {next}\ndata: {next}\n\n") };
//!     feed.try_send(http_body::Frame::data(event.into())).unwrap();
//!     if next <= 3 {
//!         tokio::spawn(async { feed.abort(std::io::ErrorKind::ConnectionReset.into()) });
//!     }
//!     Ok::<_, Infallible>(Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
//! });
//! let mut proxy = SseProxyLayer::default().reconnect(Backoff::default()).layer(upstream);
//!
//! let response = proxy.ready().await?.oneshot(Request::get("/").body(String::new())?).await?;
//! let all = response.into_body().collect().await?.to_bytes();
//! assert_eq!(all, "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\ndata: [DONE]\n\n");
//! # Ok(()) }
//! ```

#[cfg(feature = "reconnect")]
mod backoff;
#[cfg(feature = "reconnect")]
mod config;
#[cfg(feature = "reconnect")]
mod driver;
#[cfg(not(feature = "reconnect"))]
mod none;
mod policy;
#[cfg(feature = "reconnect")]
mod resend;

#[cfg(feature = "reconnect")]
pub use backoff::Backoff;
#[cfg(feature = "reconnect")]
pub use config::{Attempt, Reconnect};
pub use policy::{NoReconnect, ReconnectPolicy};

#[cfg(feature = "reconnect")]
pub(crate) use config::RetryParts;
#[cfg(feature = "reconnect")]
pub(crate) use driver::RetryRequest;
#[cfg(not(feature = "reconnect"))]
pub(crate) use none::{RetryParts, RetryRequest};
