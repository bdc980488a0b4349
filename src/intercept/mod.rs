//! Interceptors: code that sees, and may change, every event while it streams.
//!
//! An [`MakeInterceptor`] is installed once and opens an [`Interceptor`] for each stream; the interceptor gets one
//! block after the other and answers each with a [`Verdict`]. Interceptors form a chain: a later one sees
//! what the earlier ones let through, and the client sees what the last one let through. Nothing passes
//! around the chain, and nothing overtakes a block that waits in it.
//!
//! An interceptor's `event` sees events, which clients dispatch. Comments, bare ids and unknown fields reach the client
//! too, and go through [`Interceptor::block`]; the simple forms let them pass. A guard that must see every byte implements
//! both, and looks at [`lines`](crate::codec::Block::lines), not only at the data.
//!
//! From the simplest to the most able:
//!
//! * a function `Fn(Event) -> impl Into<Verdict>`, for what needs no memory;
//! * a function `Fn(&StreamHead) -> Option<impl Interceptor>`, which chooses by request and response and gives
//!   each stream a state of its own (an `FnMut(Event)` is an interceptor);
//! * a tower service of events, as a [`ServiceInterceptor`], for what needs I/O;
//! * a [`TextWindow`], for what looks for words in a text that comes in pieces, with patterns or a judge of your own;
//! * the traits themselves, for what holds events back or wants to know how the stream ended.
//!
//! ```
//! use tower_sse_proxy::{Event, SseProxyLayer, intercept::{StreamHead, Interceptor, Verdict}};
//!
//! // No memory: drop what must not pass.
//! fn no_secrets(event: Event) -> Verdict {
//!     if event.data().contains("secret") { Verdict::Drop } else { event.into() }
//! }
//!
//! // A state for each stream, in a closure: let ten events pass.
//! fn first_ten(_: &StreamHead<'_>) -> Option<impl Interceptor + use<>> {
//!     let mut seen = 0;
//!     Some(move |event: Event| {
//!         seen += 1;
//!         (seen <= 10).then_some(event)
//!     })
//! }
//!
//! // The same in a struct, which can do more: number the events.
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
//! # Testing
//!
//! An interceptor is a plain struct: open it with a head of your own, and look at the verdicts. Deadlines are told in
//! tokio's time, which a test can pause.
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
pub mod window;

pub use adapters::{FailOpen, MakeInterceptorExt, TimeLimit};
pub use interceptor::{Interceptor, StreamEnd, StreamHead};
pub use json::{Json, JsonError, JsonValue};
pub use make_interceptor::{EventFn, IntoMakeInterceptor, MakeInterceptor, event_fn, marker};
pub use service::ServiceInterceptor;
pub use verdict::Verdict;
pub use window::TextWindow;

pub(crate) use catch::{catch, drop_caught};
pub(crate) use chain::{Chain, Finish, Output};
