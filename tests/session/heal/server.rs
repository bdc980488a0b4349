//! An MCP server that can lose its sessions, and a gateway in front of it.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, service_fn};
use tower_sse_proxy::{SseProxyLayer, profile::heal::HealLayer};

use crate::support::{Answer, Protocol, fetch, forward, serve};

pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

type Reply = UnsyncBoxBody<Bytes, std::io::Error>;

pub const INITIALIZE: &str = r#"{"jsonrpc": "2.0", "id":"i-1", "method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t\u00e9st","version":"1"}}}"#;

/// The answer of the server to `initialize`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Opening {
    Json,
    /// An event stream that stays open after the result.
    Stream,
    /// As `Json`, after one permit of [`Server::gate`].
    Gated,
    /// An event stream that never has a result.
    StreamWithoutResult,
    Error,
    WithoutId,
    Broken,
    Huge,
    Status(u16),
}

/// A request that the server got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().unwrap();
        assert!(values.next().is_none(), "two {name} headers");
        Some(value)
    }

    /// The HTTP method, or the JSON-RPC method of a `POST`, and the session.
    fn short(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let rpc = text.split_once(r#""method":""#);
        let rpc = rpc.and_then(|(_, rest)| Some(rest.split_once('"')?.0));
        let name = match (&self.method, rpc) {
            (&Method::POST, Some(rpc)) => rpc.to_owned(),
            (method, _) => method.to_string(),
        };
        match self.header("mcp-session-id") {
            Some(id) => format!("{name} {id}"),
            None => name,
        }
    }
}

pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// The number of `initialize` requests that may be answered, while they are [gated](Opening::Gated).
    pub gate: Arc<Semaphore>,
    /// The number of requests that may be answered with 404, after [`hold_404`](Self::hold_404).
    pub lost: Arc<Semaphore>,
}

/// The semaphores of a server.
#[derive(Clone)]
struct Gates {
    initialize: Arc<Semaphore>,
    lost: Arc<Semaphore>,
}

struct State {
    seen: Vec<Seen>,
    sessions: HashSet<String>,
    opened: usize,
    opening: Opening,
    /// The status for `notifications/initialized`.
    initialized: u16,
    /// A `GET` is answered with 404.
    has_no_get: bool,
    /// All sessions have this id.
    fixed_id: Option<&'static str>,
    holds_404: bool,
    /// `GET` and `tools/call` get a stream that ends after one event.
    polls: bool,
}

impl Server {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            seen: Vec::new(),
            sessions: HashSet::new(),
            opened: 0,
            opening: Opening::Json,
            initialized: 202,
            has_no_get: false,
            fixed_id: None,
            holds_404: false,
            polls: false,
        }));
        let gates = Gates {
            initialize: Arc::new(Semaphore::new(0)),
            lost: Arc::new(Semaphore::new(0)),
        };
        let (of_service, gates_of_service) = (Arc::clone(&state), gates.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (state, gates) = (Arc::clone(&of_service), gates_of_service.clone());
            async move { Ok::<_, Infallible>(answer(&state, &gates, request).await) }
        });
        Self {
            address: serve(service).await,
            state,
            gate: gates.initialize,
            lost: gates.lost,
        }
    }

    /// From now on, a 404 needs a permit of [`lost`](Self::lost).
    pub fn hold_404(&self) {
        self.state.lock().unwrap().holds_404 = true;
    }

    pub fn forget(&self) {
        self.state.lock().unwrap().sessions.clear();
    }

    pub fn set_opening(&self, opening: Opening) {
        self.state.lock().unwrap().opening = opening;
    }

    pub fn set_initialized(&self, status: u16) {
        self.state.lock().unwrap().initialized = status;
    }

    pub fn set_no_get(&self) {
        self.state.lock().unwrap().has_no_get = true;
    }

    pub fn set_fixed_id(&self, id: &'static str) {
        self.state.lock().unwrap().fixed_id = Some(id);
    }

    pub fn set_polling(&self) {
        self.state.lock().unwrap().polls = true;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// All requests since the last call, one line each.
    pub fn take(&self) -> Vec<String> {
        let seen = std::mem::take(&mut self.state.lock().unwrap().seen);
        seen.iter().map(Seen::short).collect()
    }

    /// The number of requests with this line.
    pub fn count(&self, line: &str) -> usize {
        let seen = self.seen();
        let lines = seen.iter().map(Seen::short);
        lines.filter(|seen| seen == line).count()
    }
}

async fn answer(
    state: &Mutex<State>,
    gates: &Gates,
    request: Request<Incoming>,
) -> Response<Reply> {
    let (parts, body) = request.into_parts();
    let seen = Seen {
        method: parts.method.clone(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    let line = seen.short();
    let id = seen.header("mcp-session-id").map(str::to_owned);
    let opening = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen);
        state.opening
    };
    if line == "initialize" {
        if opening == Opening::Gated {
            gates.initialize.acquire().await.unwrap().forget();
        }
        return open(state, opening);
    }
    let is_get = parts.method == Method::GET;
    let (is_found, holds_404, polls, initialized) = {
        let state = state.lock().unwrap();
        let is_known = id.as_ref().is_some_and(|id| state.sessions.contains(id));
        let is_found = is_known && !(is_get && state.has_no_get);
        (is_found, state.holds_404, state.polls, state.initialized)
    };
    if !is_found {
        if holds_404 {
            gates.lost.acquire().await.unwrap().forget();
        }
        return with_status(404);
    }
    if polls && (is_get || line.starts_with("tools/call")) {
        return stream("id: e1\ndata: {\"method\":\"progress\"}\n\n", false);
    }
    if is_get {
        return stream(": open\n\n", true);
    }
    if line.starts_with("notifications/initialized") {
        return with_status(initialized);
    }
    if line.starts_with("notifications/") {
        return with_status(202);
    }
    let mut response = json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let id = id.unwrap().parse().unwrap();
    response.headers_mut().insert("mcp-session-id", id);
    response
}

fn open(state: &Mutex<State>, opening: Opening) -> Response<Reply> {
    const RESULT: &str =
        r#"{"jsonrpc":"2.0","id":"i-1","result":{"protocolVersion":"2025-06-18"}}"#;
    let mut response = match opening {
        Opening::Json | Opening::Gated | Opening::WithoutId => json(RESULT),
        Opening::Stream => stream(
            &format!("id: 1\ndata:\n\nevent: message\ndata: {RESULT}\n\n"),
            true,
        ),
        Opening::StreamWithoutResult => stream("id: 1\ndata:\n\n", false),
        Opening::Error => {
            json(r#"{"jsonrpc":"2.0","id":"i-1","error":{"code":-32602,"message":"no"}}"#)
        }
        Opening::Huge => json(&" ".repeat(2 << 20)),
        Opening::Broken => {
            let broken = futures_util::stream::once(async { Err(std::io::Error::other("broken")) });
            let broken = http_body_util::StreamBody::new(broken);
            Response::new(broken.boxed_unsync())
        }
        Opening::Status(status) => return with_status(status),
    };
    if opening != Opening::WithoutId {
        let mut state = state.lock().unwrap();
        state.opened += 1;
        let id = state.fixed_id.map(str::to_owned);
        let id = id.unwrap_or_else(|| format!("UP-{}", state.opened));
        response
            .headers_mut()
            .insert("Mcp-Session-Id", id.parse().unwrap());
        state.sessions.insert(id);
    }
    response
}

fn json(text: &str) -> Response<Reply> {
    let body = Full::<Bytes>::from(text.to_owned()).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    let mime = "application/json".parse().unwrap();
    response.headers_mut().insert("content-type", mime);
    response
}

fn with_status(status: u16) -> Response<Reply> {
    let mut response = json("");
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// An event stream with this text, which then stays open or ends.
fn stream(text: &str, stays_open: bool) -> Response<Reply> {
    use futures_util::StreamExt;
    let first =
        futures_util::stream::iter([Ok(hyper::body::Frame::data(Bytes::from(text.to_owned())))]);
    let body = match stays_open {
        true => http_body_util::StreamBody::new(first.chain(futures_util::stream::pending()))
            .boxed_unsync(),
        false => http_body_util::StreamBody::new(first).boxed_unsync(),
    };
    let mut response = Response::new(body);
    let mime = "text/event-stream".parse().unwrap();
    response.headers_mut().insert("content-type", mime);
    response
}

/// Serves the layer and the healing in front of a server.
pub async fn gateway(layer: SseProxyLayer, heal: HealLayer<Body>, server: &Server) -> SocketAddr {
    let service = ServiceBuilder::new()
        .map_request(|request: Request<Incoming>| request.map(BodyExt::boxed_unsync))
        .layer(layer)
        .layer(heal)
        .service(forward::<Body>(server.address));
    serve(service).await
}

/// A client with a session.
pub struct Client {
    pub gateway: SocketAddr,
    pub session: String,
    pub owner: &'static str,
}

impl Client {
    /// Opens a session as an MCP client does.
    pub async fn open(gateway: SocketAddr) -> Self {
        Self::open_as(gateway, "Bearer of-alice").await
    }

    pub async fn open_as(gateway: SocketAddr, owner: &'static str) -> Self {
        let request = message(owner, INITIALIZE).header("x-tenant", "a");
        let answer = send(gateway, request, INITIALIZE).await;
        assert_eq!(answer.status, 200);
        let session = answer.header("mcp-session-id").unwrap().to_owned();
        let client = Self {
            gateway,
            session,
            owner,
        };
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert_eq!(client.post(initialized).await.status, 202);
        client
    }

    pub fn request(&self, method: Method, body: &str) -> http::request::Builder {
        message(self.owner, body)
            .method(method)
            .header("mcp-protocol-version", "2025-06-18")
            .header("mcp-session-id", &self.session)
    }

    pub async fn post(&self, body: &str) -> Answer {
        send(self.gateway, self.request(Method::POST, body), body).await
    }

    pub async fn call(&self, rpc: &str) -> Answer {
        self.post(&call(rpc)).await
    }

    pub async fn get(&self) -> Answer {
        send(self.gateway, self.request(Method::GET, ""), "").await
    }

    pub async fn delete(&self) -> Answer {
        send(self.gateway, self.request(Method::DELETE, ""), "").await
    }
}

/// A JSON-RPC request.
pub fn call(rpc: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{rpc}"}}"#)
}

fn message(owner: &str, body: &str) -> http::request::Builder {
    let request = Request::post("/mcp").header("authorization", owner);
    let request = request.header("accept", "application/json, text/event-stream");
    match body {
        "" => request,
        _ => request.header("content-type", "application/json"),
    }
}

pub async fn send(gateway: SocketAddr, request: http::request::Builder, body: &str) -> Answer {
    let request = request.body(Bytes::from(body.to_owned())).unwrap();
    fetch(Protocol::Http1, gateway, request).await
}
