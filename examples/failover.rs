//! Two upstreams with the same stream: when the first one breaks, the second one continues the stream. The client sees one
//! uninterrupted stream.
//!
//! ```sh
//! cargo run --example failover
//! ```

use std::{convert::Infallible, error::Error, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, channel::Channel};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    reconnect::{Attempt, Backoff},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let upstreams = ["first", "second"];
    let failover = service_fn(move |request: Request<String>| async move {
        // The request of the client has no `Attempt`. Each reconnect attempt goes to the other upstream.
        let attempt = request
            .extensions()
            .get()
            .map_or(0, |Attempt(number)| *number);
        Ok::<_, Infallible>(upstream(upstreams[attempt as usize % 2], &request))
    });
    let backoff = Backoff::default().initial(Duration::from_millis(200));
    let proxy = SseProxyLayer::default().reconnect(backoff).layer(failover);

    let request = Request::get("/feed").body(String::new())?;
    let mut body = proxy.oneshot(request).await?.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            print!("{}", String::from_utf8_lossy(&data));
        }
    }
    Ok(())
}

/// Stands for one of several servers. The first one breaks after three events; the second one continues after `Last-Event-ID`.
fn upstream(name: &'static str, request: &Request<String>) -> Response<Channel<Bytes, io::Error>> {
    let last = request.headers().get("last-event-id");
    let last: u32 = last.map_or(0, |id| id.to_str().unwrap_or_default().parse().unwrap_or(0));
    let (mut feed, body) = Channel::new(1);
    tokio::spawn(async move {
        let until = if name == "first" { 3 } else { 6 };
        for number in last + 1..=until {
            let event = format!("id: {number}\ndata: {number} of 6, from the {name}\n\n");
            if feed.send_data(event.into()).await.is_err() {
                return;
            }
        }
        if name == "first" {
            feed.abort(io::ErrorKind::ConnectionReset.into());
        }
    });
    let stream = Response::builder().header("content-type", "text/event-stream");
    stream.body(body).expect("valid head")
}
