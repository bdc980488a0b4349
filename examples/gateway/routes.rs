//! The policy for each path.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Uri, header::COOKIE, request};
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    reconnect::Reconnect,
    replay::{Replay, Retention},
    session::{MappingError, MemoryStore, SealedStore},
};

use crate::{
    mcp,
    path::leads_to,
    proxy,
    settings::{Settings, Store},
};

/// The grace period of a shared stream without clients: enough for a client to reconnect.
const SHARED_GRACE_PERIOD: Duration = Duration::from_secs(2);

/// The layer of the gateway. It applies `policy` to all streams. MCP paths also get the MCP profile; clients can resume streams on
/// `/r`, and the layer reconnects when their upstream breaks; equal requests on `/f` share one stream.
pub fn layer(
    policy: Policy,
    settings: &Settings,
    listen: SocketAddr,
    upstream: &Uri,
) -> Result<SseProxyLayer<Reconnect>, MappingError> {
    let recorded = policy.clone().route("/mcp").replay(replay(settings));
    let mcp = mcp::rules(recorded, settings, listen, upstream)?;
    let shared = policy.clone().route("/f").replay(shared(settings));
    // All event ids on this route are the layer's, so an id of another form is rejected.
    let resumed = policy.clone().route("/r");
    let resumed = resumed.replay(replay(settings).reject_foreign_ids(true));
    let (plain, resumed, shared) = (
        Arc::new(policy.route("/s")),
        Arc::new(resumed),
        Arc::new(shared),
    );
    let prefixes = settings.mcp_paths.clone();
    let layer = match &settings.store {
        Store::Memory => SseProxyLayer::new(MemoryStore::default()),
        Store::Sealed { key, text } => {
            SseProxyLayer::new(SealedStore::new(key.clone())).owner_key(text)
        }
    };
    let layer = match settings.max_detached_per_owner {
        Some(streams) => layer.max_detached_per_owner(streams),
        None => layer,
    };
    let layer = match settings.max_streams {
        Some(streams) => layer.max_streams(streams),
        None => layer,
    };
    let layer = match settings.max_streams_per_owner {
        Some(streams) => layer.max_streams_per_owner(streams),
        None => layer,
    };
    let reconnects = |request: &request::Parts| {
        request.method == Method::GET && request.uri.path().starts_with("/r/")
    };
    let layer = match settings.log_bytes {
        Some(bytes) => layer.max_replay_bytes(bytes),
        None => layer,
    };
    let layer = layer.upstream_buffer(proxy::READ_BUFFER);
    let layer = layer.reconnect(Reconnect::default().retry_if(reconnects));
    Ok(layer.policy(move |request, _| {
        let path = request.uri.path();
        if prefixes.iter().any(|prefix| leads_to(path, prefix)) {
            mcp.policy(request)
        } else if path.starts_with("/r/") {
            Arc::clone(&resumed)
        } else if path.starts_with("/f/") {
            Arc::clone(&shared)
        } else {
            Arc::clone(&plain)
        }
    }))
}

/// The replay settings for `/r` and the MCP routes.
fn replay(settings: &Settings) -> Replay {
    let mut replay = Replay::default().max_age(settings.max_age());
    if let Some(events) = settings.replay_events {
        replay = replay.retention(Retention::default().events(events));
    }
    if let Some(time) = settings.grace_period() {
        replay = replay.grace_period(time);
    }
    replay
}

/// The replay settings for `/f`: requests with equal target and cookies share one stream. (The layer also compares owner and host.)
fn shared(settings: &Settings) -> Replay {
    let key = |request: &request::Parts| {
        let cookies = request.headers.get_all(COOKIE).iter();
        let cookies: Vec<_> = cookies.map(|value| value.as_bytes()).collect();
        // HTTP/2 clients may split cookies into several fields (RFC 9113 8.2.3).
        let key = (request.uri.path_and_query(), cookies.join(&b"; "[..]));
        (request.method == Method::GET).then(|| format!("{key:?}"))
    };
    Replay::default()
        .share_by(key)
        .grace_period(SHARED_GRACE_PERIOD)
        .max_age(settings.max_age())
}
