//! A tonic server that answers gRPC and event streams on one port, with one layer around both.
//!
//! ```sh
//! cargo run --example tonic
//! curl -N http://127.0.0.1:50051/events
//! ```
//!
//! gRPC answers are not event streams: they pass untouched, trailers included.

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

/// Numbers the ticks by their ids.
fn number(mut event: Event) -> Event {
    let id = event.id().unwrap_or_default().into_owned();
    event.set_data(format!("{} {id}", event.data()));
    event
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In real life: `Routes::new(my_grpc_service)`.
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
