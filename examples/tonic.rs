//! A tonic server with gRPC services and an event stream on one port, and one layer around both.
//!
//! ```sh
//! cargo run --example tonic
//! curl -N http://127.0.0.1:50051/events
//! ```
//!
//! gRPC responses are not event streams: they pass unchanged, including their trailers.

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    response::sse::{self, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::IntervalStream;
use tonic::{service::Routes, transport::Server};
use tower_sse_proxy::{Event, SseProxyLayer};

async fn events() -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let ticks = IntervalStream::new(tokio::time::interval(Duration::from_secs(1)));
    let events = ticks.enumerate();
    Sse::new(events.map(|(n, _)| Ok(sse::Event::default().id(n.to_string()).data("tick"))))
}

/// Appends the event's id to its data.
fn number(mut event: Event) -> Event {
    let id = event.id().unwrap_or_default().into_owned();
    event.set_data(format!("{} {id}", event.data()));
    event
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A server with gRPC services starts with `Routes::new(my_grpc_service)`.
    let mut routes = Routes::builder().routes();
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.route("/events", get(events));

    println!("listening on http://127.0.0.1:50051");
    Server::builder()
        .accept_http1(true)
        .layer(SseProxyLayer::default().intercept(number))
        .add_routes(routes)
        .serve("127.0.0.1:50051".parse()?)
        .await?;
    Ok(())
}
