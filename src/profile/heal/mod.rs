//! Healing of MCP sessions: an upstream that has lost its sessions gets a new `initialize`, and the client does not notice.
//!
//! MCP servers up to revision 2025-11-25 answer a request of a session that they do not know with 404, and the client has to start
//! again ("Session Management" of the Streamable HTTP transport). Many clients only report an error. A server loses its sessions when it
//! restarts, is replaced, or runs out of room.
//!
//! A [`HealLayer`] inside of [`SseProxyLayer`](crate::SseProxyLayer) stores the `initialize` request of each session. When the upstream
//! answers 404 to a `GET` or `POST` of the session, it
//!
//! 1. sends the stored `initialize` again, byte for byte, and then `notifications/initialized`;
//! 2. binds the new upstream session id to the client's id, which does not change;
//! 3. repeats the request, if it is [safe](is_safe).
//!
//! ```
//! use axum::{Router, body::Body};
//! use tower::{Layer, ServiceBuilder};
//! use tower_sse_proxy::{Policy, SseProxyLayer, profile::{Mcp, heal::HealLayer}};
//!
//! # let forward = tower::service_fn(|_: http::Request<Body>| async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty())) });
//! let mcp = Mcp::new(Policy::default());
//! let service = ServiceBuilder::new()
//!     .layer(SseProxyLayer::default().policy(move |request, _| mcp.policy(request)))
//!     .layer(HealLayer::new(Body::new)) // inside of the `SseProxyLayer`
//!     .service(forward);
//! let app: Router = Router::new().fallback_service(service);
//! ```
//!
//! # The client's view
//!
//! | the request that got 404 | the response |
//! |---|---|
//! | is safe | the response to the repeated request, also if that is another 404 |
//! | is not safe, or its body is too large | the 404. The session is healed: the next request of the client with the same session id works |
//! | any, and the healing fails | the 404 |
//! | a `DELETE` | the 404. The session ends |
//!
//! The requests of one session share one healing. A request that arrives during the healing waits for it, and then uses the new session.
//! The layer passes a 404 to a repeated request to the client. It also passes each later 404 of the session, until the upstream has
//! answered a request of the session with another status. So an upstream that knows no session at all gets one `initialize`, not many. If
//! the upstream also answers the repeated `GET` with 404, it has no `GET` streams (405 would be correct), and a `GET` does not heal this
//! session again.
//!
//! The layer does not store the cookies and the usual credentials of an `initialize` request: `Authorization`, `Proxy-Authorization` and
//! the API keys of [`Credentials`](crate::session::Credentials). Healing uses those of the request that got 404, which belongs to the same
//! owner. All other headers of `initialize` are stored. Headers of the request that got 404 replace stored headers of the same name, except
//! for headers that describe the message.
//!
//! # Lost state
//!
//! The upstream has a new session: subscriptions to resources, the log level, and calls that were running are gone. The layer reports each
//! healing to the function of [`HealLayer::on_healed`] and to
//! [`StreamObserver::healed`](crate::observe::StreamObserver::healed), and puts [`Healed`] into the extensions of the response, for
//! [interceptors](crate::intercept::StreamHead) and outer layers. Each healing emits a [`tracing`] event of the level `info` with the
//! target `tower_sse_proxy`, and each failed healing an event of the level `warn` with the `cause`.
//!
//! A repeated `GET` keeps its `Last-Event-ID`. The upstream decides whether it knows that event. With [replay](crate::Policy::replay), a
//! `GET` that resumes the response to a `POST` is not repeated: the call is lost, and its client gets the 404 instead of a stream without
//! the result of the call.
//!
//! # Stores and nodes
//!
//! The `initialize` request is in the memory of the node that forwarded it. Another node with the same session store passes the 404 to the
//! client. After a healing, all nodes have the new upstream session id if the store supports
//! [`Rebind`](crate::session::SessionRequest::Rebind), as [`MemoryStore`](crate::session::MemoryStore) does. With other stores, such as
//! `SealedStore`, only the node that healed the session has the new id.
//!
//! Sessions of revision 2024-11-05, whose id is in an `endpoint` event, are not healed: they end with their stream.
//!
//! # Memory
//!
//! Bodies up to [`max_body_bytes`](HealLayer::max_body_bytes) are read before the request is sent. All stored `initialize` requests
//! together have at most [`max_bytes`](HealLayer::max_bytes), and so have the bodies of requests in flight that may be repeated. A stored
//! request is dropped when its session ends, or when its owner opens another session after the store has evicted it. If there is no room,
//! the layer drops the least recently used request of the owner whose requests have the most bytes. The session of a dropped request still
//! works, but is not healed.

mod body;
mod initialize;
mod layer;
mod message;
mod service;
mod sessions;
mod settings;

pub use crate::session::healed::Healed;
pub use body::HealBody;
pub use layer::HealLayer;
pub use message::is_safe;
pub use service::Heal;
