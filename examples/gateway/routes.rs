//! Which paths are treated how.

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

/// For so long a shared stream is kept whose clients have all left: one whose connection broke is back by then.
const AWAY: Duration = Duration::from_secs(2);

/// A layer that does with all streams what this policy says, and nothing else but for those of MCP, which have rules of their own,
/// those on `/r`, which can be resumed and whose upstream is asked again when it breaks off, and those on `/f`, which are shared.
pub fn layer(
    policy: Policy,
    settings: &Settings,
    listen: SocketAddr,
    upstream: &Uri,
) -> Result<SseProxyLayer<Reconnect>, MappingError> {
    let kept = policy.clone().route("/mcp").replay(replay(settings));
    let mcp = mcp::rules(kept, settings, listen, upstream)?;
    let shared = policy.clone().route("/f").replay(shared(settings));
    // No client of this route has an id of the upstream's.
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
    let again = |request: &request::Parts| {
        request.method == Method::GET && request.uri.path().starts_with("/r/")
    };
    let layer = match settings.log_bytes {
        Some(bytes) => layer.max_replay_bytes(bytes),
        None => layer,
    };
    let layer = layer.upstream_buffer(proxy::READ_BUFFER);
    let layer = layer.reconnect(Reconnect::default().retry_if(again));
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

/// What is kept of streams.
fn replay(settings: &Settings) -> Replay {
    let mut replay = Replay::default().max_age(settings.max_age());
    if let Some(events) = settings.replay_events {
        replay = replay.retention(Retention::default().events(events));
    }
    if let Some(time) = settings.linger() {
        replay = replay.grace_period(time);
    }
    replay
}

/// One stream for all requests with the same target and cookies. (The layer compares their owner and their host, too.)
fn shared(settings: &Settings) -> Replay {
    let key = |request: &request::Parts| {
        let cookies = request.headers.get_all(COOKIE).iter();
        let cookies: Vec<_> = cookies.map(|value| value.as_bytes()).collect();
        // HTTP/2 may cut them into several fields (RFC 9113 8.2.3).
        let key = (request.uri.path_and_query(), cookies.join(&b"; "[..]));
        (request.method == Method::GET).then(|| format!("{key:?}"))
    };
    Replay::default()
        .share_by(key)
        .grace_period(AWAY)
        .max_age(settings.max_age())
}
