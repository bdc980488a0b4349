//! Session mapping: clients use session ids of the layer instead of those of the upstream.
//!
//! The layer creates a session id for the client when the upstream opens a session, and keeps both ids in a [store](SessionStore).
//! [`SessionMapping`] lists the locations of session ids in requests, responses and events, where the layer replaces one id by the
//! other. The client never receives the upstream's id, and the upstream never receives the client's.
//!
//! A session belongs to the [owner](Owner) of the request that opened it. Streams without a session have an owner, too, so owners need
//! no feature; the rest of this module is the feature `sessions`. The layer answers a request of another owner with 404, as if
//! the session did not exist.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{HeaderName, Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_proxy::{SseProxyLayer, session::{MemoryStore, SessionMapping}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Infallible> {
//! // Opens a session if the request has none.
//! let upstream = service_fn(|request: Request<()>| async move {
//!     let session = request.headers().get("x-session").cloned();
//!     let mut response = Response::new(Full::<Bytes>::default());
//!     response.headers_mut().insert("x-session", session.unwrap_or("upstream-1".parse().unwrap()));
//!     Ok::<_, Infallible>(response)
//! });
//! let proxy = SseProxyLayer::new(MemoryStore::default())
//!     .sessions(SessionMapping::header(HeaderName::from_static("x-session")))
//!     .layer(upstream);
//!
//! let request = Request::builder().header("authorization", "Bearer of-alice");
//! let response = proxy.clone().oneshot(request.body(()).unwrap()).await?;
//! let session = response.headers()["x-session"].clone();
//! assert_ne!(session, "upstream-1");
//!
//! let request = Request::builder().header("authorization", "Bearer of-bob").header("x-session", session);
//! let response = proxy.oneshot(request.body(()).unwrap()).await?;
//! assert_eq!(response.status(), StatusCode::NOT_FOUND);
//! # Ok(()) }
//! ```
//!
//! # Stores
//!
//! * [`MemoryStore`] keeps sessions in the memory of one process.
#![cfg_attr(
    feature = "sealed",
    doc = "* [`SealedStore`] encrypts a session into its id, which every process with the key can decrypt."
)]
//! * Any tower service that answers [`SessionRequest`]s. [`SessionStore`] has an example. With the feature `serde`, a [`Session`] can be
//!   serialized.
//!
//! # Several upstreams
//!
//! If the inner service balances over several upstreams, an [`UpstreamKey`] names the upstream that a session is on.

#[cfg(feature = "sessions")]
mod any_store;
#[cfg(feature = "sessions")]
mod binder;
mod credentials;
#[cfg(feature = "sessions")]
mod endpoint_url;
pub(crate) mod healed;
mod id;
#[cfg(feature = "sessions")]
mod keep_alive;
#[cfg(feature = "sessions")]
mod link;
#[cfg(feature = "sessions")]
mod location;
#[cfg(feature = "sessions")]
mod mapping;
#[cfg(feature = "sessions")]
mod memory;
#[cfg(not(feature = "sessions"))]
mod none;
mod owner;
#[cfg(feature = "sealed")]
mod sealed;
#[cfg(feature = "serde")]
mod serde;
#[cfg(feature = "sessions")]
mod store;
#[cfg(feature = "sessions")]
mod streams;

#[cfg(feature = "testing")]
pub mod testing;

pub use credentials::{Credentials, InvalidCookieName};
pub use id::{MalformedId, MalformedOwner, Owner, SessionId, UpstreamKey, UpstreamSessionId};
#[cfg(feature = "sessions")]
pub use mapping::{MappingError, SessionMapping};
#[cfg(feature = "sessions")]
pub use memory::MemoryStore;
#[cfg(feature = "sealed")]
pub use sealed::{MalformedKey, SealError, SealedKey, SealedStore};
#[cfg(feature = "sessions")]
pub use store::{NewSession, Session, SessionRequest, SessionStore};
#[cfg(feature = "sessions")]
pub use streams::StreamCount;

#[cfg(not(feature = "sessions"))]
pub(crate) use none::{AnyStore, SessionKeepAlive, SessionLease, SessionMapping};
pub(crate) use owner::Owners;
#[cfg(feature = "mcp")]
pub(crate) use streams::InStore;
#[cfg(feature = "sessions")]
pub(crate) use {
    any_store::AnyStore,
    binder::SessionBinder,
    keep_alive::{SessionKeepAlive, SessionLease},
    link::{OnBound, OnHealed, Rebound, SessionLink},
    streams::OpenStream,
};

/// Gets a report of each call to a session store: the operation, the result, and the time that it took.
pub(crate) type ObserveStore =
    std::sync::Arc<dyn Fn(&'static str, &'static str, std::time::Duration) + Send + Sync>;
