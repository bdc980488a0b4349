//! The stored `initialize` request of a session, and how it is sent again.

use std::{mem::size_of, pin::pin};

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        self, ACCEPT_ENCODING, CONTENT_LENGTH, COOKIE, EXPECT, PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
    },
    request,
};
use http_body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_service::Service;

use super::settings::Settings;
use crate::{
    codec::{Decoder, Item},
    headers::content_type::{Declared, declared},
    intercept::Json,
    session::{Credentials, NewSession, SessionId, UpstreamKey, UpstreamSessionId},
    upstream::terminal::is_json_rpc_response,
};

/// The header of the session id (MCP 2025-11-25, "Session Management").
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The maximum size of the upstream's response to `initialize`, in bytes. It is read up to the result, and dropped.
const MAX_RESPONSE: usize = 1 << 20;

const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// An `initialize` request without its credentials.
pub(super) struct Initialize {
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
}

impl Initialize {
    pub(super) fn new(request: &request::Parts, body: Bytes) -> Self {
        let mut headers = request.headers.clone();
        for name in headers
            .keys()
            .filter(|name| is_credential(name))
            .cloned()
            .collect::<Vec<_>>()
        {
            headers.remove(name);
        }
        headers.remove(SESSION);
        headers.remove(EXPECT);
        Self {
            uri: request.uri.clone(),
            version: request.version,
            headers,
            body,
        }
    }

    /// The memory of the request, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            name.as_str().len() + value.len() + size_of::<(HeaderName, HeaderValue)>()
        };
        let path = self
            .uri
            .path_and_query()
            .map_or(0, |path| path.as_str().len());
        self.body.len() + path + self.headers.iter().map(field).sum::<usize>()
    }

    /// The head of the request, with the credentials and the extensions of `request`.
    fn head(&self, request: &request::Parts) -> request::Parts {
        let mut head = request.clone();
        head.method = Method::POST;
        head.uri = self.uri.clone();
        head.version = self.version;
        head.headers = self.headers.clone();
        for name in request.headers.keys() {
            if is_credential(name) || (head.headers.contains_key(name) && !describes_message(name))
            {
                head.headers.remove(name);
                for value in request.headers.get_all(name) {
                    head.headers.append(name, value.clone());
                }
            }
        }
        // `is_result` reads the body of the response without undoing a content coding.
        head.headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        head
    }
}

/// Whether a field has credentials that are not stored. Other fields are stored; the fields of the request that got 404 replace them.
fn is_credential(name: &HeaderName) -> bool {
    *name == COOKIE || *name == PROXY_AUTHORIZATION || Credentials::is_common(name)
}

/// Whether a field belongs to the message and not to its sender.
fn describes_message(name: &HeaderName) -> bool {
    let is_of_body = ["content-", "mcp-", "mcp_", "accept"].iter();
    let mut is_of_body = is_of_body.map(|prefix| name.as_str().starts_with(prefix));
    is_of_body.any(|is| is)
        || [
            TRANSFER_ENCODING,
            EXPECT,
            header::TE,
            header::TRAILER,
            header::UPGRADE,
            header::CONNECTION,
        ]
        .contains(name)
}

/// A new upstream session.
pub(super) struct Opened {
    pub(super) id: UpstreamSessionId,
    pub(super) upstream: Option<UpstreamKey>,
    head: request::Parts,
}

/// Opens a new upstream session for the client of `request`, which got 404.
///
/// # Errors
/// Why the upstream has opened no session: a text for logs.
pub(super) async fn open<S, ReqB, B>(
    settings: &Settings<ReqB>,
    service: S,
    initialize: &Initialize,
    request: &request::Parts,
) -> Result<Opened, &'static str>
where
    S: Service<Request<ReqB>, Response = Response<B>> + Clone,
    ReqB: Body<Data = Bytes>,
    B: Body,
    B::Data: Buf,
{
    let head = initialize.head(request);
    let body = settings.body(initialize.body.clone());
    let response = service
        .clone()
        .oneshot(Request::from_parts(head.clone(), body))
        .await;
    let (parts, body) = response.map_err(|_| "initialize failed")?.into_parts();
    if settings.is_lost(&parts) || !parts.status.is_success() {
        return Err("the upstream rejected initialize");
    }
    let id = session_id(&parts.headers).ok_or("the upstream opened no session")?;
    let is_stream = declared(&parts.headers) == Declared::EventStream;
    if !is_result(body, is_stream).await {
        return Err("the upstream sent no result of initialize");
    }
    Ok(Opened {
        id,
        upstream: parts.extensions.get::<UpstreamKey>().cloned(),
        head,
    })
}

impl Opened {
    /// The session as a store binds it, in the place of another one.
    pub(super) fn bound_after(&self, before: &NewSession) -> NewSession {
        let upstream = self.upstream.clone().or_else(|| before.upstream.clone());
        NewSession::new(self.id.clone(), before.owner).with_upstream(upstream)
    }

    /// Sends `notifications/initialized` with the protocol version of the request that got 404.
    pub(super) async fn initialized<S, ReqB, B>(
        &self,
        settings: &Settings<ReqB>,
        service: S,
        request: &request::Parts,
    ) -> Result<(), &'static str>
    where
        S: Service<Request<ReqB>, Response = Response<B>> + Clone,
        ReqB: Body<Data = Bytes>,
    {
        let status = self.send(settings, service, request, Method::POST, INITIALIZED);
        match status.await {
            Some(status) if status.is_success() => Ok(()),
            _ => Err("the upstream rejected notifications/initialized"),
        }
    }

    /// Ends the session, because no client has it.
    pub(super) async fn delete<S, ReqB, B>(
        &self,
        settings: &Settings<ReqB>,
        service: S,
        request: &request::Parts,
    ) where
        S: Service<Request<ReqB>, Response = Response<B>> + Clone,
        ReqB: Body<Data = Bytes>,
    {
        self.send(settings, service, request, Method::DELETE, b"")
            .await;
    }

    async fn send<S, ReqB, B>(
        &self,
        settings: &Settings<ReqB>,
        service: S,
        request: &request::Parts,
        method: Method,
        body: &'static [u8],
    ) -> Option<StatusCode>
    where
        S: Service<Request<ReqB>, Response = Response<B>> + Clone,
        ReqB: Body<Data = Bytes>,
    {
        const VERSION: &str = "mcp-protocol-version";
        let mut head = self.head.clone();
        head.method = method;
        let of_body = |name: &HeaderName| {
            name.as_str().starts_with("content-")
                && (*name != header::CONTENT_TYPE || body.is_empty())
        };
        let names: Vec<_> = head
            .headers
            .keys()
            .filter(|name| of_body(name))
            .cloned()
            .collect();
        for name in names.iter().chain(&[CONTENT_LENGTH, TRANSFER_ENCODING]) {
            head.headers.remove(name);
        }
        set_session(&mut head, &self.id, self.upstream.as_ref()).then_some(())?;
        if let Some(version) = request.headers.get(VERSION) {
            head.headers.insert(VERSION, version.clone());
        }
        let body = settings.body(Bytes::from_static(body));
        let response = service
            .clone()
            .oneshot(Request::from_parts(head, body))
            .await;
        response.ok().map(|response| response.status())
    }
}

/// The session id in the head of a response, if there is one.
pub(super) fn session_id(headers: &HeaderMap) -> Option<UpstreamSessionId> {
    let mut ids = headers.get_all(SESSION).iter();
    let (Some(id), None) = (ids.next(), ids.next()) else {
        return None;
    };
    let id = SessionId::parse(id.to_str().ok()?.trim()).ok()?;
    Some(UpstreamSessionId::new(id.as_str()))
}

/// Puts the id of an upstream session into a request. Returns false if it cannot be a header value.
pub(super) fn set_session(
    request: &mut request::Parts,
    id: &UpstreamSessionId,
    upstream: Option<&UpstreamKey>,
) -> bool {
    let Ok(value) = HeaderValue::from_str(id.as_str()) else {
        return false;
    };
    request.headers.insert(SESSION, value);
    if let Some(upstream) = upstream {
        request.extensions.insert(upstream.clone());
    }
    true
}

/// Reads the response to `initialize` up to its JSON-RPC response. Returns whether that is a result.
async fn is_result<B>(body: B, is_stream: bool) -> bool
where
    B: Body,
    B::Data: Buf,
{
    let mut body = pin!(body);
    let mut decoder = Decoder::new(MAX_RESPONSE);
    let mut left = MAX_RESPONSE;
    let mut json = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return false;
        };
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        let Some(rest) = left.checked_sub(data.remaining()) else {
            return false;
        };
        left = rest;
        let data = data.copy_to_bytes(data.remaining());
        if !is_stream {
            json.extend_from_slice(&data);
            continue;
        }
        decoder.push(data);
        while let Ok(Some(item)) = decoder.next_item() {
            if let Item::Event(event) = item
                && is_json_rpc_response(&event)
            {
                return !is_error(&event.data());
            }
        }
    }
    !is_stream && std::str::from_utf8(&json).is_ok_and(|json| !is_error(json))
}

/// Whether this is a JSON-RPC error.
fn is_error(json: &str) -> bool {
    Json::parse(json)
        .is_ok_and(|json| json.pointer("/error").is_some() && json.pointer("/result").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(request: request::Builder) -> request::Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn credentials_are_not_stored_but_taken_from_the_later_request() {
        let credentials = [
            "authorization",
            "x-api-key",
            "cookie",
            "proxy-authorization",
        ];
        let mut first = Request::post("/mcp").header("x-tenant", "a");
        let mut later = Request::get("/other").extension("later").extension(7_u8);
        for name in credentials {
            first = first.header(name, "old-secret");
            later = later.header(name, "new-1").header(name, "new-2");
        }
        let first = head(
            first
                .header("x-token", "old")
                .header("expect", "100-continue"),
        );
        let initialize = Initialize::new(&first, Bytes::from("{}"));
        let stored: Vec<_> = initialize.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(stored, ["x-tenant", "x-token"]);

        let later = later
            .header("x-token", "new")
            .header("mcp-session-id", "UP-1")
            .header("x-other", "1");
        let head = initialize.head(&head(later));
        assert_eq!((&head.method, head.uri.path()), (&Method::POST, "/mcp"));
        assert_eq!(head.extensions.get(), Some(&7_u8));
        for name in credentials {
            let values: Vec<_> = head.headers.get_all(name).iter().collect();
            assert_eq!(values, ["new-1", "new-2"], "{name}");
        }
        assert_eq!(head.headers["x-tenant"], "a");
        assert_eq!(head.headers["x-token"], "new");
        for absent in ["x-other", "mcp-session-id", "expect"] {
            assert!(!head.headers.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn fields_of_the_message_are_those_of_initialize() {
        let first = Request::post("/mcp")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("content-length", "2");
        let initialize = Initialize::new(&head(first), Bytes::from("{}"));
        let later = Request::get("/mcp")
            .header("content-type", "text/plain")
            .header("content-length", "0")
            .header("accept", "text/event-stream");
        let head = initialize.head(&head(later));
        assert_eq!(head.headers["content-type"], "application/json");
        assert_eq!(head.headers["content-length"], "2");
        assert_eq!(
            head.headers["accept"],
            "application/json, text/event-stream"
        );
    }
}
