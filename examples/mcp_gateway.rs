//! A gateway for MCP servers: it maps session ids, binds each session to its owner, and inspects every event.
//!
//! ```sh
//! cargo run --example mcp_gateway -- 127.0.0.1:3000 127.0.0.1:8080
//! ```

mod forward;

use std::{env, error::Error, net::SocketAddr};

use axum::Router;
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    intercept::window::{Pattern, TextWindow, patterns},
    profile::{Mcp, OriginCheckLayer},
    replay::Replay,
    session::MemoryStore,
};

use forward::Forward;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
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

    let upstream = Forward::to(&format!("http://{upstream}"))?;
    let app = Router::new().fallback_service(upstream.behind(&layer));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
