//! A reverse proxy with axum's server, the layer, and reqwest as the client.
//!
//! ```sh
//! cargo run --example reqwest -- http://127.0.0.1:8080
//! ```
//!
//! An interceptor counts the events of each event stream. All other responses pass unchanged.

use std::{env, error::Error};

use axum::{Router, body::Body};
use http::{HeaderName, Request, Response, StatusCode, header};
use tokio::net::TcpListener;
use tower::service_fn;
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

/// Counts the events of one stream and prints the count at its end.
struct Count {
    path: String,
    events: usize,
}

impl Interceptor for Count {
    fn event(&mut self, event: Event) -> Verdict {
        self.events += 1;
        event.into()
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        println!("{}: {} events, {end:?}", self.path, self.events);
        Verdict::Drop
    }
}

/// Forwards a request with reqwest, without buffering its body.
async fn forward(
    client: reqwest::Client,
    upstream: String,
    request: Request<Body>,
) -> Result<Response<reqwest::Body>, StatusCode> {
    // Hop-by-hop header fields (RFC 9110 7.6.1).
    const HOP_BY_HOP: [HeaderName; 5] = [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let (mut parts, body) = request.into_parts();
    for name in HOP_BY_HOP.iter().chain([&header::HOST]) {
        parts.headers.remove(name);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let response = client
        .request(parts.method, format!("{upstream}{path}"))
        .headers(parts.headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await;
    let mut response = Response::from(response.map_err(|_| StatusCode::BAD_GATEWAY)?);
    for name in &HOP_BY_HOP {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let upstream = env::args()
        .nth(1)
        .ok_or("usage: reqwest UPSTREAM, as http://host:port")?;
    // A proxy forwards redirects to the client and does not follow them.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;

    let proxy = service_fn(move |request| {
        let response = forward(client.clone(), upstream.clone(), request);
        async move {
            Ok::<_, std::convert::Infallible>(response.await.unwrap_or_else(|status| {
                let mut failed = Response::new(reqwest::Body::from(""));
                *failed.status_mut() = status;
                failed
            }))
        }
    });
    let layer = SseProxyLayer::default().intercept(|head: &StreamHead<'_>| {
        Some(Count {
            path: head.request.uri.path().to_owned(),
            events: 0,
        })
    });
    let app: Router = Router::new().fallback_service(proxy).layer(layer);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
