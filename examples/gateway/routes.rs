//! Which paths are treated how.

use std::{net::SocketAddr, sync::Arc};

use http::{Uri, header::AUTHORIZATION, request};
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    replay::{Bounds, Replay},
    session::{MemoryStore, SealedStore},
};

use crate::{
    mcp,
    path::leads_to,
    settings::{Settings, Store},
};

/// A layer that does with all streams what this policy says: with those of MCP by its rules, and with others than those on `/r` and
/// MCP's nothing else.
pub fn layer(
    policy: Policy,
    settings: &Settings,
    listen: SocketAddr,
    upstream: &Uri,
) -> SseProxyLayer {
    let kept = policy.clone().replay(replay(settings));
    let mcp = mcp::rules(kept.clone(), settings, listen, upstream);
    let (plain, kept) = (Arc::new(policy), Arc::new(kept));
    let prefixes = settings.mcp_paths.clone();
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
        } else if path.starts_with("/r/") {
            Arc::clone(&kept)
        } else {
            Arc::clone(&plain)
        })
    })
}

/// What is kept of streams.
fn replay(settings: &Settings) -> Replay {
    let mut replay = Replay::default();
    if let Some(events) = settings.replay_events {
        replay = replay.bounds(Bounds::default().events(events));
    }
    if let Some(time) = settings.linger() {
        replay = replay.linger(time);
    }
    replay
}

fn authorization(request: &request::Parts) -> Option<Vec<u8>> {
    let values = request.headers.get_all(AUTHORIZATION).iter();
    let values: Vec<_> = values.map(|value| value.as_bytes()).collect();
    (!values.is_empty()).then(|| values.join(&b'\n'))
}
