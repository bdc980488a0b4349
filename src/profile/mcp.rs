//! The Model Context Protocol, by revision.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, request};

use super::{OriginCheckLayer, origin_check::Foreign};
use crate::{
    headers::event_stream::LAST_EVENT_ID,
    log::last_event_id::names_own_event,
    policy::Policy,
    replay::{Gap, Replay},
    session::SessionMapping,
    upstream::terminal::is_json_rpc_response,
};

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// The first revision in which a server may end an answer and go on with it in another one.
const POLLING: &str = "2025-11-25";

/// The first revision that has no sessions and no resumption.
const STATELESS: &str = "2026-07-28";

/// How requests of the Model Context Protocol are dealt with, each by the revision that it names in `MCP-Protocol-Version`.
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{Layer, service_fn};
/// use tower_sse_proxy::{Event, Policy, SseProxyLayer, profile::{Mcp, OriginCheckLayer}, session::MemoryStore};
///
/// let guarded = Policy::default().intercept(|event: Event| (!event.data().contains("secret")).then_some(event));
/// let mcp = Mcp::new(guarded)
///     .check(OriginCheckLayer::new(["mcp.example.com"], ["https://app.example.com"]));
/// let layer = SseProxyLayer::new(MemoryStore::default())
///     .policy(move |request| request.uri.path().starts_with("/mcp").then(|| mcp.policy(request)));
/// # let upstream = service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::default())) });
/// let service = layer.layer(upstream);
/// ```
///
/// | revision | sessions | a client that leaves | comes back |
/// |---|---|---|---|
/// | 2024-11-05 | the URL in the `endpoint` event | ends its session | to a new one |
/// | 2025-03-26, 2025-06-18, 2025-11-25, none named | `Mcp-Session-Id` | is told to the upstream, which does not take it for a cancellation; with [`replay`](Policy::replay) the upstream goes on | with replay, to its stream |
/// | 2026-07-28 and later | none: the headers of sessions and resumption are taken away | is told to the upstream, for which it is the cancellation | to nothing |
///
/// With [`replay`](Policy::replay), a `GET` with `Last-Event-ID` is answered from what is kept of the stream, also of one that
/// a `POST` began; what is no longer kept, or is no event of the session, is answered with 400 (404 would end the session); a
/// stream is complete with the JSON-RPC response, and until then its server may end an answer and is asked to continue by `GET`
/// (polling, 2025-11-25; servers do it whatever revision a client names). From 2025-11-25 on, streams begin with an event that has
/// an id and no data, so that they can be resumed from the start. These rules take the place of the `gap`, the `complete_when`, the
/// `only_own_ids` (unless the ids are the upstream's), the `continue_after_end` and, from 2025-11-25 on, the `prime` of the policy's
/// [`Replay`]; what else it says holds.
///
/// ```
/// use tower_sse_proxy::{Policy, SseProxyLayer, profile::Mcp, replay::Replay};
///
/// let mcp = Mcp::new(Policy::default().replay(Replay::default()));
/// let layer = SseProxyLayer::default().policy(move |request| Some(mcp.policy(request)));
/// ```
///
/// A request that names several revisions is answered 400: which of them the upstream would take cannot be told. The body of a
/// request, its `Mcp-*` headers and the status and body of a response are not changed, nor does anything repeat a request.
///
/// Clients of MCP refresh their tokens: unless the [`owner`](crate::SseProxyLayer::owner) is what a token says and not the token,
/// a session ends with its token, and the client opens another.
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
    /// All revisions, with what this policy has besides sessions: interceptors, limits, keep-alive.
    pub fn new(policy: Policy) -> Self {
        Self::with_sessions(policy, Self::sessions())
    }

    /// As [`new`](Self::new), with rules that differ from [`sessions`](Self::sessions) for the revisions that have them: with the
    /// [origins](SessionMapping::allow_upstream_origin) of an upstream, say, or where the layer is [mounted](SessionMapping::mount_path).
    pub fn with_sessions(policy: Policy, sessions: SessionMapping) -> Self {
        let none = SessionMapping::none()
            .strip_header(SESSION)
            .strip_header(LAST_EVENT_ID.as_str())
            .without_endpoint();
        let refused = |status, text| Arc::new(Policy::reject(status, text));
        let (policy, replay) = policy.without_replay();
        let stateful = policy.clone().sessions(sessions);
        let kept = |replay: Option<Replay>| match replay {
            Some(replay) => Arc::new(stateful.clone().replay(replay)),
            None => Arc::new(stateful.clone()),
        };
        let replay = replay.map(|replay| {
            // A 404 would be taken for the end of the session.
            let gap = Gap::Status(StatusCode::BAD_REQUEST);
            // A client that has ids of ours has no others. One that makes up an id of the upstream's may get another session's
            // events, from a server that looks ids up among those of all sessions.
            let only_own = replay.reject_foreign_ids || !replay.preserve_upstream_ids;
            replay
                .on_gap(gap)
                .complete_when(is_json_rpc_response)
                .reject_foreign_ids(only_own)
                .continue_by_get()
                .continue_after_end(true)
        });
        Self {
            resumable: kept(replay.clone()),
            polling: kept(replay.map(|replay| replay.priming_event(None))),
            stateful: Arc::new(stateful),
            stateless: Arc::new(policy.sessions(none)),
            ambiguous: refused(
                StatusCode::BAD_REQUEST,
                "a request has one MCP-Protocol-Version\n",
            ),
            foreign_origin: refused(StatusCode::FORBIDDEN, Foreign::Origin.text()),
            foreign_host: refused(StatusCode::FORBIDDEN, Foreign::Host.text()),
            check: None,
        }
    }

    /// Refuses requests of other origins, and to other hosts, with 403 before anything else.
    pub fn check(mut self, check: OriginCheckLayer) -> Self {
        self.check = Some(check);
        self
    }

    /// Where the sessions of MCP live, up to revision 2025-11-25: in `Mcp-Session-Id`, or in the URL of an `endpoint` event. They
    /// end with a `DELETE`, or when the upstream knows them no more.
    pub fn sessions() -> SessionMapping {
        SessionMapping::header(SESSION)
            .in_endpoint()
            .end_on_delete_or_404()
    }

    /// The policy for a request.
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

/// A request that may open a stream of 2024-11-05, for which there is no resumption: another stream is another session.
fn may_be_legacy(request: &request::Parts) -> bool {
    let headers = &request.headers;
    request.method == Method::GET
        && !headers.contains_key(SESSION)
        && !headers.contains_key(VERSION)
        // None of a legacy stream has an id of ours.
        && !names_own_event(headers)
}

enum Version {
    Stateful,
    /// And an answer may be cut in pieces, for which the client comes back.
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
                // None is what 2025-03-26 names, and what an upstream makes of another is for it to say.
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
    fn the_revision_of_a_request_tells_whether_it_has_sessions() {
        let of = |versions: &[&'static str]| {
            let name = http::HeaderName::from_static(VERSION);
            let headers = versions
                .iter()
                .map(|version| (name.clone(), version.parse().unwrap()));
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
