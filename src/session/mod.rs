//! Sessions: which session of a client is which of the upstream.
//!
//! A client only ever sees an id that the layer's [store](SessionStore) has minted, the upstream only its own; [`SessionMapping`] says
//! where ids live, and so where they are translated. A session belongs to who opened it: another's id is answered like one that
//! does not exist, whatever its holder knows of it.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse_proxy::{SseProxyLayer, session::{MemoryStore, SessionMapping}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Infallible> {
//! // Opens a session for whoever has none.
//! let upstream = service_fn(|request: Request<()>| async move {
//!     let session = request.headers().get("x-session").cloned();
//!     let mut response = Response::new(Full::<Bytes>::default());
//!     response.headers_mut().insert("x-session", session.unwrap_or("upstream-1".parse().unwrap()));
//!     Ok::<_, Infallible>(response)
//! });
//! let proxy = SseProxyLayer::new(MemoryStore::default())
//!     .sessions(SessionMapping::header("x-session"))
//!     .layer(upstream);
//!
//! let request = Request::builder().header("authorization", "Bearer mine");
//! let response = proxy.clone().oneshot(request.body(()).unwrap()).await?;
//! let session = response.headers()["x-session"].clone();
//! assert_ne!(session, "upstream-1");
//!
//! let request = Request::builder().header("authorization", "Bearer another's").header("x-session", session);
//! let response = proxy.oneshot(request.body(()).unwrap()).await?;
//! assert_eq!(response.status(), StatusCode::NOT_FOUND);
//! # Ok(()) }
//! ```
//!
//! # Stores
//!
//! * [`MemoryStore`]: in the memory of one process.
#![cfg_attr(
    feature = "sealed",
    doc = "* [`SealedStore`]: in the id itself, which every process with the key can open."
)]
//! * Your own: any tower service that answers [`SessionRequest`]s. [`SessionStore`] has one in twenty lines.

mod any_store;
mod binder;
mod credentials;
mod endpoint;
mod id;
mod keep_alive;
mod location;
mod mapping;
mod memory;
mod owner;
#[cfg(feature = "sealed")]
mod sealed;
#[cfg(feature = "serde")]
mod serde;
mod store;
mod streams;

#[cfg(feature = "testing")]
pub mod testing;

pub use credentials::{Credentials, InvalidCookieName};
pub use id::{MalformedId, Owner, SessionId, UpstreamKey, UpstreamSessionId};
pub use mapping::SessionMapping;
pub use memory::MemoryStore;
#[cfg(feature = "sealed")]
pub use sealed::{MalformedKey, SealError, SealedKey, SealedStore};
pub use store::{NewSession, Session, SessionRequest, SessionStore};
pub use streams::StreamCount;

pub(crate) use any_store::AnyStore;
#[expect(unused_imports)]
pub(crate) use binder::SessionBinder;
pub(crate) use keep_alive::{SessionKeepAlive, SessionLease};
pub(crate) use owner::Owners;
pub(crate) use streams::OpenStream;
