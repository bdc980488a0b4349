//! The MCP profile for the MCP routes, with the allowed hosts and origins, and the healing of sessions.

use std::net::SocketAddr;

use http::Uri;
use http_body_util::combinators::BoxBody;
use tower_sse_proxy::{
    Policy,
    profile::{Mcp, OriginCheckLayer, heal::HealLayer},
    session::MappingError,
};

use crate::{proxy::Body, settings::Settings};

/// The MCP profile on top of `policy`.
pub fn rules(
    policy: Policy,
    settings: &Settings,
    listen: SocketAddr,
    upstream: &Uri,
) -> Result<Mcp, MappingError> {
    let sessions = Mcp::sessions().allow_upstream_origin(upstream.to_string())?;
    let check = OriginCheckLayer::new(hosts(settings, listen), origins(settings, listen));
    Ok(Mcp::with_sessions(policy, sessions).check(check))
}

/// The layer that heals sessions, if it is on.
pub fn healing(settings: &Settings) -> Option<HealLayer<Body>> {
    settings.heal.then(|| HealLayer::new(BoxBody::new))
}

fn hosts(settings: &Settings, listen: SocketAddr) -> Vec<String> {
    settings
        .allowed_hosts
        .clone()
        .unwrap_or_else(|| names(listen))
}

fn origins(settings: &Settings, listen: SocketAddr) -> Vec<String> {
    let own = || {
        names(listen)
            .iter()
            .map(|name| format!("http://{name}"))
            .collect()
    };
    settings.allowed_origins.clone().unwrap_or_else(own)
}

/// The hosts, with port, under which local clients reach the gateway.
fn names(listen: SocketAddr) -> Vec<String> {
    let port = listen.port();
    let mut names = vec![listen.to_string(), format!("localhost:{port}")];
    if listen.ip().is_unspecified() {
        names.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    }
    names
}
