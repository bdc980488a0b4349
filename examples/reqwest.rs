//! A reverse proxy: axum towards the clients, reqwest towards the upstream, and the layer in between.
//!
//! ```sh
//! cargo run --example reqwest -- http://127.0.0.1:8080
//! ```
//!
//! Whatever answers with an event stream has its events counted; everything else passes untouched.

use std::{env, error::Error};

use axum::{Router, body::Body};
use http::{HeaderName, Request, Response, StatusCode, header};
use tokio::net::TcpListener;
use tower::service_fn;
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

/// Counts the events of one stream and says so at its end.
struct Count {
    of: String,
    events: usize,
}

impl Interceptor for Count {
    fn event(&mut self, event: Event) -> Verdict {
        self.events += 1;
        event.into()
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        println!("{}: {} events, {end:?}", self.of, self.events);
        Verdict::Drop
    }
}

/// Sends a request on with reqwest, its body as it comes.
async fn forward(
    client: reqwest::Client,
    upstream: String,
    request: Request<Body>,
) -> Result<Response<reqwest::Body>, StatusCode> {
    // What concerns one connection only (RFC 9110 7.6.1).
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
    let answer = client
        .request(parts.method, format!("{upstream}{path}"))
        .headers(parts.headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await;
    let mut answer = Response::from(answer.map_err(|_| StatusCode::BAD_GATEWAY)?);
    for name in &HOP_BY_HOP {
        answer.headers_mut().remove(name);
    }
    Ok(answer)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let upstream = env::args()
        .nth(1)
        .ok_or("usage: reqwest UPSTREAM, as http://host:port")?;
    // Redirects are the client's business, not the proxy's.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()?;

    let proxy = service_fn(move |request| {
        let answer = forward(client.clone(), upstream.clone(), request);
        async move {
            Ok::<_, std::convert::Infallible>(answer.await.unwrap_or_else(|status| {
                let mut failed = Response::new(reqwest::Body::from(""));
                *failed.status_mut() = status;
                failed
            }))
        }
    });
    let layer = SseProxyLayer::default().intercept(|head: &StreamHead<'_>| {
        Some(Count {
            of: head.request.uri.path().to_owned(),
            events: 0,
        })
    });
    let app: Router = Router::new().fallback_service(proxy).layer(layer);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
