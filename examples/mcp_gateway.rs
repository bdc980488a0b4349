//! A gateway for MCP servers: it maps session ids, binds each session to its owner, and inspects every event.
//!
//! ```sh
//! cargo run --example mcp_gateway -- 127.0.0.1:3000 127.0.0.1:8080
//! ```

use std::{env, error::Error};

use axum::{Router, body::Body, extract::Request, response::IntoResponse};
use http::{StatusCode, Uri, Version, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::service_fn;
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    intercept::window::{Pattern, TextWindow, patterns},
    profile::{Mcp, OriginCheckLayer},
    replay::Replay,
    session::MemoryStore,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(listen), Some(upstream)) = (args.next(), args.next()) else {
        return Err("usage: mcp_gateway LISTEN UPSTREAM, both as host:port".into());
    };
    // The URL in an `endpoint` event may only name this upstream. Requests must have one of these hosts and origins.
    let sessions = Mcp::sessions().allow_upstream_origin(format!("http://{upstream}"))?;
    let port = listen.rsplit(':').next().unwrap_or_default();
    let hosts = [listen.clone(), format!("localhost:{port}")];
    let origins = hosts.clone().map(|host| format!("http://{host}"));
    let check = OriginCheckLayer::new(hosts, origins);
    // Masks the phrase wherever it is in a message. An interceptor that drops a response leaves its request without an answer.
    let phrase = Pattern::phrase("ignore previous instructions").ignore_case();
    let guarded = Policy::default()
        .intercept(TextWindow::new(patterns([phrase.mask("[removed]")])?))
        .inspect_json(4 << 20)
        .replay(Replay::default());
    let mcp = Mcp::with_sessions(guarded, sessions).check(check);
    let layer =
        SseProxyLayer::new(MemoryStore::default()).policy(move |request, _| mcp.policy(request));

    let client = Client::builder(TokioExecutor::new()).build_http();
    let upstream = service_fn(move |request| forward(client.clone(), upstream.clone(), request));
    let app = Router::new().fallback_service(upstream).layer(layer);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, app).await?;
    Ok(())
}

async fn forward(
    client: Client<HttpConnector, Body>,
    upstream: String,
    mut request: Request,
) -> Result<axum::response::Response, std::convert::Infallible> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let Ok(uri) = format!("http://{upstream}{path}").parse::<Uri>() else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    // The layer has checked the client's Host. hyper adds the Host of the upstream.
    request.headers_mut().remove(header::HOST);
    Ok(match client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    })
}
