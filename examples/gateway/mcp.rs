//! The MCP routes: which they are, who may use them, and where their sessions are kept.

use std::{net::SocketAddr, sync::Arc};

use http::{Uri, header::AUTHORIZATION, request};
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    profile::{Mcp, OriginCheck},
    session::{MemoryStore, SealedStore},
};

use crate::{
    path::leads_to,
    settings::{Settings, Store},
};

/// A layer with one policy for MCP and this one for all the rest.
pub fn layer(
    policy: Policy,
    settings: &Settings,
    listen: SocketAddr,
    upstream: &Uri,
) -> SseProxyLayer {
    let sessions = Mcp::sessions().upstream_origin(upstream.to_string());
    let check = OriginCheck::new(hosts(settings, listen), origins(settings, listen));
    let mcp = Mcp::with_sessions(policy.clone(), sessions).check(check);
    let (plain, prefixes) = (Arc::new(policy), settings.mcp_paths.clone());
    let layer = match &settings.store {
        Store::Memory => SseProxyLayer::new(MemoryStore::default()),
        Store::Sealed { key, text } => {
            SseProxyLayer::new(SealedStore::new(key.clone())).owner_key(text)
        }
    };
    layer.owner(authorization).policy(move |request| {
        let path = request.uri.path();
        Some(if prefixes.iter().any(|prefix| leads_to(path, prefix)) {
            mcp.policy(request)
        } else {
            Arc::clone(&plain)
        })
    })
}

fn authorization(request: &request::Parts) -> Option<Vec<u8>> {
    let values = request.headers.get_all(AUTHORIZATION).iter();
    let values: Vec<_> = values.map(|value| value.as_bytes()).collect();
    (!values.is_empty()).then(|| values.join(&b'\n'))
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

/// By what names the gateway goes on its own machine.
fn names(listen: SocketAddr) -> Vec<String> {
    let port = listen.port();
    let mut names = vec![listen.to_string(), format!("localhost:{port}")];
    if listen.ip().is_unspecified() {
        names.extend([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    }
    names
}
