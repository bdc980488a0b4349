//! Interceptors: code that sees, and may change, each event of a stream.
//!
//! A [`MakeInterceptor`] is installed once. It opens an [`Interceptor`] for each stream. The layer calls the interceptor for
//! each block, and the interceptor returns a [`Verdict`]. Interceptors form a chain: each one sees the blocks that the
//! interceptors before it forwarded, and the client gets the blocks that the last one forwarded. No block bypasses the chain,
//! and no block overtakes a block that waits in it.
//!
//! Choose the simplest form that is sufficient:
//!
//! * a function `Fn(Event) -> impl Into<Verdict>`, without state;
//! * a function `Fn(&StreamHead) -> Option<impl Interceptor>`, which selects streams by request and response and gives each
//!   stream its own state (an `FnMut(Event)` is an interceptor);
//! * a tower service of events, in a [`ServiceInterceptor`], for I/O;
//! * a [`TextWindow`] for text that is split over events, with patterns or with your own judge;
//! * the traits themselves, to hold events back or to see how the stream ended.
//!
//! ```
//! use tower_sse_proxy::{Event, SseProxyLayer, intercept::{StreamHead, Interceptor, Verdict}};
//!
//! // Without state: drop events with a secret.
//! fn no_secrets(event: Event) -> Verdict {
//!     if event.data().contains("secret") { Verdict::Drop } else { event.into() }
//! }
//!
//! // State for each stream, in a closure: forward the first ten events.
//! fn first_ten(_: &StreamHead<'_>) -> Option<impl Interceptor + use<>> {
//!     let mut seen = 0;
//!     Some(move |event: Event| {
//!         seen += 1;
//!         (seen <= 10).then_some(event)
//!     })
//! }
//!
//! // State for each stream, in a struct: number the events.
//! struct Number(u64);
//! impl Interceptor for Number {
//!     fn event(&mut self, mut event: Event) -> Verdict {
//!         self.0 += 1;
//!         event.set_data(format!("{}. {}", self.0, event.data()));
//!         event.into()
//!     }
//! }
//!
//! let layer = SseProxyLayer::default()
//!     .intercept(no_secrets)
//!     .intercept(first_ten)
//!     .intercept(|head: &StreamHead<'_>| head.request.uri.path().starts_with("/numbered").then_some(Number(0)));
//! ```
//!
//! # Guards that must see every byte
//!
//! [`Interceptor::event`] sees events, the blocks that clients dispatch. Comments, blocks without data and unknown fields reach
//! the client too. They pass through [`Interceptor::block`]; functions and services let them pass unseen. A guard that must see
//! every byte implements both methods and reads [`lines`](crate::codec::Block::lines), not only the data.
//!
//! # Testing
//!
//! To test an interceptor, open it with a [`StreamHead`] and check its verdicts. Deadlines are times of tokio's clock, which a
//! test can pause.
//!
//! ```
//! use http::{Request, Response};
//! use tower_sse_proxy::{Event, codec::Block, intercept::{event_fn, StreamHead, MakeInterceptor, Verdict}};
//!
//! let upper = event_fn(|mut event: Event| {
//!     event.set_data(event.data().to_uppercase());
//!     event
//! });
//!
//! let (request, _) = Request::get("/chat").body(()).unwrap().into_parts();
//! let (response, _) = Response::new(()).into_parts();
//! let mut stream = upper.open(&StreamHead::new(&request, &response)).unwrap();
//! assert!(matches!(stream.event(Event::new("hi")), Verdict::Forward(event) if event.raw() == "data: HI\n\n"));
//! assert!(matches!(stream.block(Block::comment("hi")), Verdict::Forward(_)));
//! ```

mod adapters;
mod catch;
mod chain;
mod interceptor;
mod json;
mod make_interceptor;
mod service;
pub(crate) mod unescape;
mod verdict;
#[cfg(feature = "window")]
pub mod window;

pub use adapters::{FailOpen, MakeInterceptorExt, TimeLimit};
pub use interceptor::{BodyShape, Interceptor, StreamEnd, StreamHead};
pub use json::{Json, JsonError, JsonValue};
pub use make_interceptor::{EventFn, IntoMakeInterceptor, MakeInterceptor, event_fn, marker};
pub use service::ServiceInterceptor;
pub use verdict::Verdict;
#[cfg(feature = "window")]
pub use window::TextWindow;

pub(crate) use catch::{catch, drop_caught};
pub(crate) use chain::{Chain, Finish, Output};
