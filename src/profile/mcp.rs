//! Policies for the Model Context Protocol, by revision.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, StatusCode, request};

use super::{OriginCheckLayer, origin_check::Foreign};
use crate::{
    headers::event_stream_head::LAST_EVENT_ID,
    log::last_event_id::names_own_event,
    policy::Policy,
    replay::{Gap, Replay},
    session::SessionMapping,
    upstream::terminal::is_json_rpc_response,
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The first revision in which a server may end a response early, for the client to resume it (polling).
const POLLING: &str = "2025-11-25";

/// The first revision without sessions and resumption.
const STATELESS: &str = "2026-07-28";

/// Policies for the Model Context Protocol. Each request gets the policy of the revision in its `MCP-Protocol-Version` header.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Layer, service_fn};
/// use tower_sse_proxy::{Event, Policy, SseProxyLayer, profile::{Mcp, OriginCheckLayer}, session::MemoryStore};
///
/// // A server may answer with JSON instead of an event stream, so the interceptor has to see both.
/// let guarded = Policy::default().inspect_json(4 << 20).intercept(|mut event: Event| {
///     // An interceptor edits responses and does not drop them: a request without a response never ends.
///     if event.data().contains("secret") {
///         event.set_data(event.data().replace("secret", "******"));
///     }
///     event
/// });
/// let mcp = Mcp::new(guarded)
///     .check(OriginCheckLayer::new(["mcp.example.com"], ["https://app.example.com"]));
/// let layer = SseProxyLayer::new(MemoryStore::default())
///     .policy(move |request, default| {
///         if request.uri.path().starts_with("/mcp") { mcp.policy(request) } else { default }
///     });
/// # let upstream = service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::default())) });
/// let service = layer.layer(upstream);
/// ```
///
/// | revision | session id | a client disconnect | a reconnect |
/// |---|---|---|---|
/// | 2024-11-05 | in the URL of the `endpoint` event | ends the session | opens a new session |
/// | 2025-03-26, 2025-06-18, 2025-11-25, or no header | in `Mcp-Session-Id` | closes the upstream's stream, which by the protocol does not cancel the call; with [`replay`](Policy::replay) the stream continues | with replay, resumes the stream |
/// | 2026-07-28 and later | none: the layer removes the headers of sessions and resumption | closes the upstream's stream, which by the protocol cancels the request | is a new request |
///
/// A request with several revisions is answered with 400, because upstreams differ in which of them they use. The layer does not change
/// the body of a request, or its `Mcp-*` headers other than the session id, and it does not repeat a request. Only interceptors change
/// the status and body of a response. A [`HealLayer`](super::heal::HealLayer) inside of the `SseProxyLayer` repeats requests of sessions
/// that the upstream has lost.
///
/// # JSON bodies
///
/// A server may answer any request with one JSON body instead of an event stream (2025-03-26 and later, "Sending Messages to the
/// Server"). The interceptors see it if the policy has [`inspect_json`](Policy::inspect_json): one event, whose data is a message or a
/// batch. Unless set, JSON bodies pass unread. Session ids are mapped in their head, as always, and not in the body.
///
/// If an interceptor drops or blocks a body, the client gets [`blocked_status`](Policy::blocked_status), 403 unless set. With 404, a client
/// would conclude that its session has ended.
///
/// # Replay
///
/// With [`replay`](Policy::replay), for revisions up to 2025-11-25:
///
/// * A `GET` with `Last-Event-ID` is answered from the log, also if a `POST` opened the stream.
/// * If the event was evicted, or is not of the session, the answer is 400. (A 404 would end the session.)
/// * A stream is complete with its JSON-RPC response. If the upstream ends its response earlier (polling, 2025-11-25), the layer
///   continues the stream with a `GET`, whatever revision the client uses.
/// * From 2025-11-25 on, a stream starts with an event that has an id and no data, so that the client can resume from the start.
///
/// These rules replace the settings `on_gap`, `complete_when`, `continue_after_end`, `reject_foreign_ids` (unless
/// `preserve_upstream_ids` is set) and, from 2025-11-25 on, `priming_event` of the policy's [`Replay`]. Its other settings apply.
///
/// ```
/// use tower_sse_proxy::{Policy, SseProxyLayer, profile::Mcp, replay::Replay};
///
/// let mcp = Mcp::new(Policy::default().replay(Replay::default()));
/// let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
/// ```
///
/// # Owner
///
/// MCP clients refresh their access tokens, and by default the token is part of the owner. A session then ends with its token, and the
/// client opens a new one. To keep the session, set an [`owner`](crate::SseProxyLayer::owner) from the contents of the token.
#[derive(Clone, Debug)]
pub struct Mcp {
    stateful: Arc<Policy>,
    resumable: Arc<Policy>,
    polling: Arc<Policy>,
    stateless: Arc<Policy>,
    ambiguous: Arc<Policy>,
    foreign_origin: Arc<Policy>,
    foreign_host: Arc<Policy>,
    check: Option<OriginCheckLayer>,
}

impl Mcp {
    /// Creates the policies for all revisions. They have the interceptors, limits and other settings of `policy`, and the session mapping
    /// of [`sessions`](Self::sessions) where the revision has sessions.
    pub fn new(policy: Policy) -> Self {
        Self::with_sessions(policy, Self::sessions())
    }

    /// Creates policies as [`new`](Self::new) does, with another session mapping. Start from [`sessions`](Self::sessions), for example to
    /// add the [origin of an upstream](SessionMapping::allow_upstream_origin) or a [mount path](SessionMapping::mount_path).
    pub fn with_sessions(policy: Policy, sessions: SessionMapping) -> Self {
        let none = SessionMapping::none()
            .strip_header(SESSION)
            .strip_header(LAST_EVENT_ID)
            .strip_endpoint();
        let route = policy.route.clone();
        // Rejections have the same route label.
        let reject = |status, text| {
            let policy = Policy::reject(status, text);
            Arc::new(match &route {
                Some(route) => policy.route(Arc::clone(route)),
                None => policy,
            })
        };
        let (policy, replay) = policy.without_replay();
        let stateful = policy.clone().sessions(sessions);
        let with_replay = |replay: Option<Replay>| match replay {
            Some(replay) => Arc::new(stateful.clone().replay(replay)),
            None => Arc::new(stateful.clone()),
        };
        let replay = replay.map(|replay| {
            // A 404 means that the session has ended (2025-11-25, "Session Management").
            let gap = Gap::Status(StatusCode::BAD_REQUEST);
            // A client only has event ids of the layer. The upstream must not receive an invented id: a server that looks up event
            // ids over all sessions would answer with the events of another session.
            let only_own = replay.reject_foreign_ids || !replay.preserve_upstream_ids;
            replay
                .on_gap(gap)
                .complete_when(is_json_rpc_response)
                .reject_foreign_ids(only_own)
                .continue_by_get()
                .continue_after_end(true)
        });
        Self {
            resumable: with_replay(replay.clone()),
            polling: with_replay(replay.map(|replay| replay.priming_event(None))),
            stateful: Arc::new(stateful),
            stateless: Arc::new(policy.sessions(none)),
            ambiguous: reject(
                StatusCode::BAD_REQUEST,
                "multiple MCP-Protocol-Version values: a request must have one\n",
            ),
            foreign_origin: reject(StatusCode::FORBIDDEN, Foreign::Origin.text()),
            foreign_host: reject(StatusCode::FORBIDDEN, Foreign::Host.text()),
            check: None,
        }
    }

    /// Answers a request with 403 if its origin or host is not allowed. Default: no check.
    pub fn check(mut self, check: OriginCheckLayer) -> Self {
        self.check = Some(check);
        self
    }

    /// Returns the session mapping of MCP up to revision 2025-11-25. The session id is in `Mcp-Session-Id`, or in the URL of an `endpoint`
    /// event. A session ends [with a successful `DELETE`, or with a 404 to a request other than
    /// `GET`](SessionMapping::end_on_delete_or_404).
    pub fn sessions() -> SessionMapping {
        SessionMapping::header(SESSION)
            .in_endpoint()
            .end_on_delete_or_404()
    }

    /// Returns the policy for a request, for [`SseProxyLayer::policy`](crate::SseProxyLayer::policy).
    pub fn policy(&self, request: &request::Parts) -> Arc<Policy> {
        let foreign = self.check.as_ref().and_then(|check| check.foreign(request));
        if let Some(foreign) = foreign {
            return Arc::clone(match foreign {
                Foreign::Origin => &self.foreign_origin,
                Foreign::Host => &self.foreign_host,
            });
        }
        Arc::clone(match version(&request.headers) {
            Version::Several => &self.ambiguous,
            Version::Stateful if may_be_legacy(request) => &self.stateful,
            Version::Stateful => &self.resumable,
            Version::Polling => &self.polling,
            Version::Stateless => &self.stateless,
        })
    }
}

/// Whether the request may open a stream of 2024-11-05. Such a stream cannot be resumed: each stream is a separate session.
fn may_be_legacy(request: &request::Parts) -> bool {
    let headers = &request.headers;
    request.method == Method::GET
        && !headers.contains_key(SESSION)
        && !headers.contains_key(VERSION)
        // The layer gives no event ids to a stream of 2024-11-05.
        && !names_own_event(headers)
}

enum Version {
    Stateful,
    /// As `Stateful`, and a server may end a response early.
    Polling,
    Stateless,
    Several,
}

fn version(headers: &HeaderMap) -> Version {
    let mut values = headers.get_all(VERSION).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Version::Several,
        (Some(value), None) => {
            let value = value.as_bytes().trim_ascii();
            if value.contains(&b',') {
                Version::Several
            } else if is_date(value) && value >= STATELESS.as_bytes() {
                Version::Stateless
            } else if is_date(value) && value >= POLLING.as_bytes() {
                Version::Polling
            } else {
                // Revision 2024-11-05, one with sessions, or an unknown text. The upstream decides about the latter.
                Version::Stateful
            }
        }
        (None, _) => Version::Stateful,
    }
}

fn is_date(value: &[u8]) -> bool {
    value.len() == STATELESS.len()
        && value
            .iter()
            .zip(STATELESS.bytes())
            .all(|(&byte, like)| byte == like || (byte.is_ascii_digit() && like.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_of_a_request_decides_whether_it_has_sessions() {
        let of = |versions: &[&'static str]| {
            let headers = versions
                .iter()
                .map(|version| (VERSION, version.parse().unwrap()));
            match version(&headers.collect()) {
                Version::Stateful | Version::Polling => "sessions",
                Version::Stateless => "none",
                Version::Several => "?",
            }
        };
        for old in [
            "2024-11-05",
            "2025-03-26",
            "2025-06-18",
            "2025-11-25",
            "2026-07-27",
            "draft",
            "9",
            "zzzz-zz-zz",
        ] {
            assert_eq!(of(&[old]), "sessions", "{old}");
        }
        assert_eq!(of(&[]), "sessions");
        for new in ["2026-07-28", " 2026-07-28", "2026-10-01", "2027-01-01"] {
            assert_eq!(of(&[new]), "none", "{new}");
        }
        assert_eq!(of(&["2025-11-25", "2026-07-28"]), "?");
        assert_eq!(of(&["2025-11-25", "2025-11-25"]), "?");
        assert_eq!(of(&["2025-11-25, 2026-07-28"]), "?");
    }
}
