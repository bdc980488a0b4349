//! Sessions: a client sees the layer's ids and nothing else, the upstream its own, and a session belongs to who opened it.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use crate::support::{Script, event_stream, rest};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, Policy, SseBody, SseProxyLayer,
    intercept::Head,
    profile::Mcp,
    session::{
        MemoryStore, NewSession, Owner, Session, SessionId, SessionRequest, Sessions, UpstreamId,
        UpstreamKey,
    },
};

/// What an upstream was asked.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Request<()>>>>);

impl Asked {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> Request<()> {
        self.0.lock().unwrap().last().expect("asked").clone()
    }

    fn header(&self, name: &str) -> Option<String> {
        let last = self.last();
        let mut values = last.headers().get_all(name).iter();
        let value = values
            .next()
            .map(|value| value.to_str().unwrap().to_owned());
        assert!(values.next().is_none(), "{name} is there twice");
        value
    }
}

type Answered = Response<SseBody<Full<Bytes>>>;

type Answers = Arc<dyn Fn(&Request<()>) -> Response<Full<Bytes>> + Send + Sync>;

/// The layer around an upstream that answers by this function.
struct Proxy {
    layer: SseProxyLayer,
    asked: Asked,
    answer: Answers,
}

impl Proxy {
    fn new(
        layer: SseProxyLayer,
        answer: impl Fn(&Request<()>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let (asked, answer) = (Asked::default(), Arc::new(answer));
        Self {
            layer,
            asked,
            answer,
        }
    }

    async fn send(&self, request: http::request::Builder) -> Answered {
        let (asked, answer) = (self.asked.clone(), Arc::clone(&self.answer));
        let upstream = service_fn(move |request: Request<()>| {
            let answer = answer(&request);
            asked.0.lock().unwrap().push(request);
            async { Ok::<_, Infallible>(answer) }
        });
        self.layer
            .layer(upstream)
            .oneshot(request.body(()).unwrap())
            .await
            .unwrap()
    }
}

fn ask(path: &str) -> http::request::Builder {
    Request::post(path)
}

fn header<B>(response: &Response<B>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    Some(value.to_str().unwrap().to_owned())
}

async fn text(response: Answered) -> String {
    let all = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(all.to_vec()).unwrap()
}

fn answer(text: &str) -> Response<Full<Bytes>> {
    Response::new(Full::from(text.to_owned()))
}

fn with(
    mut response: Response<Full<Bytes>>,
    name: &'static str,
    value: &str,
) -> Response<Full<Bytes>> {
    response.headers_mut().append(name, value.parse().unwrap());
    response
}

/// Opens a session for who has none, as servers of MCP do.
fn opens(request: &Request<()>) -> Response<Full<Bytes>> {
    let id = request.headers().get("x-session");
    let id = id.map_or("UP-1", |id| id.to_str().unwrap());
    with(answer("fine"), "x-session", id)
}

fn by_header() -> SseProxyLayer {
    SseProxyLayer::new(MemoryStore::default()).sessions(Sessions::header("X-Session"))
}

#[tokio::test]
async fn the_client_has_one_id_and_the_upstream_another() {
    let proxy = Proxy::new(by_header(), opens);
    let first = proxy.send(ask("/")).await;
    let id = header(&first, "x-session").unwrap();
    assert_ne!(id, "UP-1");
    assert_eq!(proxy.asked.header("x-session"), None);
    let next = proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(proxy.asked.header("x-session").as_deref(), Some("UP-1"));
    assert_eq!(header(&next, "x-session").as_ref(), Some(&id));
    assert_eq!(text(next).await, "fine");
}

#[tokio::test]
async fn every_kind_of_answer_has_its_head_mapped_and_its_body_untouched() {
    for (status, mime, body) in [
        (200, "application/json", r#"{"id":"UP-1"}"#),
        (202, "text/plain", ""),
        (500, "text/plain", "UP-1 failed"),
        (200, "text/event-stream", "data: UP-1\n\n"),
        (404, "text/event-stream", "data: UP-1\n\n"),
    ] {
        let proxy = Proxy::new(by_header(), move |_| {
            let mut answer = with(answer(body), "x-session", "UP-1");
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            with(answer, "content-type", mime)
        });
        let response = proxy.send(ask("/")).await;
        assert_eq!(response.status().as_u16(), status);
        assert_ne!(header(&response, "x-session").unwrap(), "UP-1");
        assert_eq!(text(response).await, body);
    }
}

#[tokio::test]
async fn an_upstream_that_changes_its_id_changes_the_clients() {
    let proxy = Proxy::new(by_header(), |request| {
        let id = if request.uri().path() == "/new" {
            "UP-2"
        } else {
            "UP-1"
        };
        with(answer(""), "x-session", id)
    });
    let first = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    let request = ask("/new").header("x-session", &first);
    let second = header(&proxy.send(request).await, "x-session").unwrap();
    assert_ne!(second, first);
    proxy.send(ask("/").header("x-session", &second)).await;
    assert_eq!(proxy.asked.header("x-session").as_deref(), Some("UP-2"));
}

#[tokio::test]
async fn a_session_of_another_owner_is_one_that_does_not_exist() {
    let proxy = Proxy::new(by_header(), opens);
    for proof in ["authorization", "cookie", "x-api-key"] {
        let opened = proxy.send(ask("/").header(proof, "a=1")).await;
        let id = header(&opened, "x-session").unwrap();
        let before = proxy.asked.count();
        let mut answers = Vec::new();
        for request in [
            ask("/").header("x-session", &id),
            ask("/").header("x-session", &id).header(proof, "a=2"),
            ask("/")
                .header("x-session", &id)
                .header(proof, "a=1")
                .header(proof, "a=2"),
            ask("/").header("x-session", "unknown").header(proof, "a=1"),
        ] {
            let response = proxy.send(request).await;
            answers.push((
                response.status(),
                response.headers().clone(),
                text(response).await,
            ));
        }
        assert_eq!(answers[0].0, StatusCode::NOT_FOUND);
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{answers:?}"
        );
        assert_eq!(proxy.asked.count(), before, "the upstream was asked");
        let own = proxy
            .send(ask("/").header("x-session", &id).header(proof, "a=1"))
            .await;
        assert_eq!(own.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn an_upstreams_own_id_opens_nothing() {
    let proxy = Proxy::new(by_header(), opens);
    proxy.send(ask("/")).await;
    for name in ["x-session", "X-SESSION", "x_session"] {
        let response = proxy.send(ask("/").header(name, "UP-1")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{name}");
    }
    assert_eq!(proxy.asked.count(), 1);
}

#[tokio::test]
async fn malformed_ids_are_said_to_be_so() {
    let proxy = Proxy::new(by_header(), opens);
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    let long = "x".repeat(1025);
    for wrong in [&b"a b"[..], b"", b"\xff", b"caf\xc3\xa9", long.as_bytes()] {
        let wrong = HeaderValue::from_bytes(wrong).unwrap();
        let response = proxy.send(ask("/").header("x-session", wrong)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(text(response).await.contains("visible ASCII"));
    }
    let twice = ask("/").header("x-session", &id).header("x-session", &id);
    assert_eq!(proxy.send(twice).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(proxy.asked.count(), 1);
}

#[tokio::test]
async fn an_id_in_another_spelling_of_the_header_does_not_pass() {
    let layers = [
        by_header(),
        SseProxyLayer::default().sessions(Sessions::none().without_header("x-session")),
    ];
    for layer in layers {
        let proxy = Proxy::new(layer, |_| with(answer(""), "x_session", "UP-1"));
        assert_eq!(header(&proxy.send(ask("/")).await, "x_session"), None);
    }
}

#[tokio::test]
async fn an_upstreams_id_that_cannot_be_mapped_does_not_pass() {
    let proxy = Proxy::new(by_header(), |_| with(answer(""), "x-session", "UP 1"));
    let response = proxy.send(ask("/")).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(header(&response, "x-session"), None);
    assert!(!text(response).await.contains("UP 1"));
}

#[tokio::test]
async fn cookies_are_mapped_and_others_stay() {
    let layer = SseProxyLayer::default().sessions(Sessions::none().in_cookie("sid"));
    let proxy = Proxy::new(layer, |_| {
        let answer = with(answer(""), "set-cookie", "theme=dark; Path=/");
        with(answer, "set-cookie", "sid=UP-1; Path=/; HttpOnly")
    });
    let opened = proxy.send(ask("/").header("cookie", "a=1")).await;
    let given: Vec<_> = opened.headers().get_all("set-cookie").iter().collect();
    assert_eq!(given[0], "theme=dark; Path=/");
    let given = given[1].to_str().unwrap();
    let id = given
        .strip_prefix("sid=")
        .unwrap()
        .strip_suffix("; Path=/; HttpOnly")
        .unwrap();
    assert_ne!(id, "UP-1");
    // The owner is who else the cookies say, so that it is the same before there is a session.
    let request = ask("/").header("cookie", format!("a=1; sid={id}"));
    assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
    assert_eq!(proxy.asked.header("cookie").unwrap(), "a=1; sid=UP-1");
    let request = ask("/").header("cookie", format!("a=2; sid={id}"));
    assert_eq!(proxy.send(request).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_cookie_that_is_taken_back_is_no_session_and_tells_no_id() {
    for (given, passed) in [
        ("sid=UP-1; Max-Age=0", "sid=; Max-Age=0"),
        ("sid=\"UP-1\";max-age=-1", "sid=\"\";max-age=-1"),
        // Browsers go by the last one. The session is lost then, but not its id.
        (
            "sid=UP-1; Max-Age=0; Max-Age=9",
            "sid=; Max-Age=0; Max-Age=9",
        ),
        ("sid=; Max-Age=0", "sid=; Max-Age=0"),
    ] {
        let layer = SseProxyLayer::default().sessions(Sessions::none().in_cookie("sid"));
        let proxy = Proxy::new(layer, move |_| with(answer(""), "set-cookie", given));
        let response = proxy.send(ask("/")).await;
        assert_eq!(header(&response, "set-cookie").unwrap(), passed);
    }
}

#[tokio::test]
async fn a_cookie_beside_what_is_no_text_is_mapped_all_the_same() {
    let latin1 = |text: &[u8]| HeaderValue::from_bytes(text).unwrap();
    let layer = SseProxyLayer::default().sessions(Sessions::none().in_cookie("sid"));
    let layer = layer.owner(|_| None::<Vec<u8>>);
    let proxy = Proxy::new(layer, |_| {
        let mut answer = answer("");
        let cookie = HeaderValue::from_bytes(b"sid=UP-1; Path=/caf\xe9").unwrap();
        answer.headers_mut().insert("set-cookie", cookie);
        answer
    });
    let opened = proxy.send(ask("/")).await;
    let given = opened.headers()["set-cookie"].as_bytes();
    let id = given.strip_prefix(b"sid=").unwrap();
    let id = id.strip_suffix(b"; Path=/caf\xe9").unwrap();
    assert_ne!(id, b"UP-1");
    let asked = proxy.asked.count();
    // The last one is white space to those who read a head as Latin-1.
    for stolen in [
        &b"sid=UP-1; a=caf\xe9"[..],
        b"a=caf\xe9;sid=UP-1",
        b"a=1; \xa0sid=UP-1",
    ] {
        let response = proxy.send(ask("/").header("cookie", latin1(stolen))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(proxy.asked.count(), asked);
    let own = [b"a=caf\xe9; sid=", id].concat();
    let response = proxy.send(ask("/").header("cookie", latin1(&own))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        proxy.asked.last().headers()["cookie"],
        latin1(b"a=caf\xe9; sid=UP-1")
    );
}

#[tokio::test]
async fn an_unknown_id_can_be_forgotten() {
    let rules = Sessions::none().in_cookie("sid").forget_unknown();
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), |_| answer(""));
    let long = format!("sid={}; a=1", "x".repeat(2000));
    for cookies in [
        "sid=expired; a=1",
        "sid=; a=1",
        "a=1; sid=two words",
        "sid=one; a=1; sid=another",
        &long,
    ] {
        let request = ask("/").header("cookie", cookies);
        assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
        assert_eq!(proxy.asked.header("cookie").unwrap(), "a=1", "{cookies}");
    }
}

#[tokio::test]
async fn a_parameter_is_mapped_however_it_is_spelled() {
    let rules = Sessions::header("x-session").in_query("sid");
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens);
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    for (query, upstreams) in [
        (format!("sid={id}"), "sid=UP-1"),
        (format!("a=%20;b&sid={id}&c"), "a=%20;b&sid=UP-1&c"),
        (format!("s%69d={id}"), "s%69d=UP-1"),
        (format!("a=1;sid={id}"), "a=1;sid=UP-1"),
    ] {
        let response = proxy.send(ask(&format!("/path?{query}"))).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        let target = proxy.asked.last().uri().to_string();
        assert_eq!(target, format!("/path?{upstreams}"));
    }
    for query in [
        "sid=UP-1",
        "%73id=UP-1",
        "a=1;sid=UP-1",
        "sid=UP%2d1",
        "SID=UP-1",
        "sid[]=UP-1",
        "sid%5B0%5D=UP-1",
    ] {
        let response = proxy.send(ask(&format!("/?{query}"))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{query}");
    }
    let both = ask("/?sid=other").header("x-session", &id);
    assert_eq!(proxy.send(both).await.status(), StatusCode::BAD_REQUEST);
}

/// Sends one stream through a layer with these rules.
async fn streamed(
    rules: Sessions,
    request: http::request::Builder,
    stream: Script,
) -> (String, Option<ErrorKind>) {
    let layer = SseProxyLayer::default().sessions(rules);
    let response =
        crate::support::respond(&layer, request.body(()).unwrap(), event_stream(stream)).await;
    rest(response.into_body()).await
}

#[tokio::test]
async fn ids_in_data_are_mapped_where_a_rule_names_them_and_nowhere_else() {
    let rules = Sessions::header("x-session").in_data("/session/id");
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), |_| {
        let stream = concat!(
            "id: 7\ndata: {\"n\": 1.0, \"session\": {\"id\": \"UP-1\"}, \"text\": \"UP-1\"}\n\n",
            "data: {\"session\": {\"id\": \"UP-2\"}}\n\n",
            "data: {\"session\": {\"id\": 5}}\n\n",
            "data: UP-1\n\n",
        );
        with(
            with(answer(stream), "content-type", "text/event-stream"),
            "x-session",
            "UP-1",
        )
    });
    let response = proxy.send(ask("/")).await;
    let id = header(&response, "x-session").unwrap();
    let stream = text(response).await;
    let events: Vec<_> = stream.split("\n\n").collect();
    assert_eq!(
        events[0],
        format!(
            "id: 7\ndata: {{\"n\": 1.0, \"session\": {{\"id\": \"{id}\"}}, \"text\": \"UP-1\"}}"
        )
    );
    assert!(!events[1].contains("UP-2") && !events[1].contains(&id));
    assert_eq!(
        events[2..],
        ["data: {\"session\": {\"id\": 5}}", "data: UP-1", ""]
    );
}

/// The id of the URL that a client is told to post to.
fn endpoint_id<'a>(stream: &'a str, path: &str) -> &'a str {
    let url = stream.strip_prefix("event: endpoint\ndata: ").unwrap();
    let url = url.split('\n').next().unwrap();
    url.strip_prefix(path)
        .unwrap()
        .strip_prefix("?sessionId=")
        .unwrap()
}

#[tokio::test]
async fn an_endpoint_in_any_form_becomes_a_path_of_our_own() {
    for (endpoint, target) in [
        ("/messages?sessionId=UP-1", "/messages?sessionId=UP-1"),
        (
            "messages/?session_id=UP-1&x=%20",
            "/m/messages/?session_id=UP-1&x=%20",
        ),
        ("/messages/UP-1", "/messages/UP-1"),
        (
            "http://upstream:9000/messages?sid=UP-1",
            "/messages?sid=UP-1",
        ),
        ("http://gateway/messages?sid=UP-1", "/messages?sid=UP-1"),
    ] {
        // Left open: the session ends with the stream.
        let layer = SseProxyLayer::default().sessions(
            Sessions::none()
                .in_endpoint()
                .upstream_origin("http://upstream:9000"),
        );
        let stream = Script::new([
            crate::support::Step::Data(": hi\n\nevent: endp".into()),
            crate::support::Step::Later,
            crate::support::Step::Data(
                format!("oint\r\ndata: {endpoint}\r\n\r\nevent: message\ndata: {endpoint}\n\n")
                    .into(),
            ),
            crate::support::Step::Never,
        ]);
        let request = Request::get("/m/sse?token=1").header("host", "gateway");
        let response =
            crate::support::respond(&layer, request.body(()).unwrap(), event_stream(stream)).await;
        let mut body = response.into_body();
        let mut seen = String::new();
        while !seen.contains("event: message") {
            let frame = crate::support::soon(body.frame()).await.unwrap().unwrap();
            seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        let seen = seen.strip_prefix(": hi\n\n").unwrap();
        // What is not an endpoint is data.
        assert!(
            seen.ends_with(&format!("event: message\ndata: {endpoint}\n\n")),
            "{seen}"
        );
        let id = endpoint_id(seen, "/m/sse");
        assert!(!id.contains("UP-1"));

        let proxy = Proxy::new(layer, |_| answer("accepted"));
        let request = ask(&format!("/m/sse?sessionId={id}"));
        assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
        assert_eq!(proxy.asked.last().uri(), target);
        // It is no id for another place, nor the upstream's one for this.
        for wrong in [
            ask("/messages?sessionId=UP-1"),
            ask("/messages?session_id=UP-1"),
            ask("/messages?s%65ssionid=UP-1"),
        ] {
            assert_eq!(proxy.send(wrong).await.status(), StatusCode::NOT_FOUND);
        }
        assert_eq!(proxy.asked.count(), 1);
    }
}

#[tokio::test]
async fn an_endpoint_elsewhere_cuts_the_stream() {
    for endpoint in [
        "http://evil.example/messages",
        "//evil.example/",
        "/\\evil.example",
        "mailto:me",
    ] {
        let stream = Script::of([format!(
            "data: 1\n\nevent: endpoint\ndata: {endpoint}\n\ndata: 2\n\n"
        )]);
        let (seen, failed) =
            streamed(Sessions::none().in_endpoint(), Request::get("/sse"), stream).await;
        assert_eq!(
            (&*seen, failed),
            ("data: 1\n\n", Some(ErrorKind::Session)),
            "{endpoint}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_is_of_our_origin_whatever_path_the_stream_was_asked_by() {
    for path in ["//evil.example/sse", "///evil.example/sse"] {
        let layer = SseProxyLayer::default().sessions(Sessions::none().in_endpoint());
        let proxy = Proxy::new(layer, |_| {
            event_stream(Full::from("event: endpoint\ndata: /messages/UP-1\n\n"))
        });
        let stream = text(proxy.send(Request::get(path)).await).await;
        assert!(
            stream.starts_with("event: endpoint\ndata: /evil.example/sse?sessionId="),
            "{stream}"
        );
    }
}

#[tokio::test]
async fn a_mounted_layer_tells_the_whole_path() {
    let rules = Sessions::none().in_endpoint().mounted_at("/tools/");
    let stream = Script::of(["event: endpoint\ndata: /messages?sessionId=UP-1\n\n"]);
    let (seen, _) = streamed(rules, Request::get("/sse"), stream).await;
    endpoint_id(&seen, "/tools/sse");
}

#[tokio::test]
async fn an_endpoint_leads_into_a_nested_router_that_the_layer_is_around() {
    use axum::{Router, body::Body, http::Uri, routing};
    let stream = || async {
        // Left open: the session ends with the stream.
        let event = Bytes::from("event: endpoint\ndata: /messages?sessionId=UP-1\n\n");
        let first = futures_util::stream::iter([Ok::<_, Infallible>(event)]);
        let body = Body::from_stream(first.chain(futures_util::stream::pending()));
        ([("content-type", "text/event-stream")], body)
    };
    let tools = Router::new().route("/sse", routing::get(stream)).route(
        "/messages",
        routing::post(|uri: Uri| async move { uri.to_string() }),
    );
    let layer =
        SseProxyLayer::default().sessions(Sessions::none().in_endpoint().mounted_at("/tools"));
    let app = Router::new().nest_service("/tools", layer.layer(tools));

    let request = Request::get("/tools/sse").body(Body::empty()).unwrap();
    let stream = app.clone().oneshot(request).await.unwrap();
    let mut stream = stream.into_body();
    let event = crate::support::soon(stream.frame()).await.unwrap().unwrap();
    let event = String::from_utf8(event.into_data().unwrap().to_vec()).unwrap();
    let id = endpoint_id(&event, "/tools/sse");
    let request = Request::post(format!("/tools/sse?sessionId={id}"));
    let request = request.body(Body::empty()).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let reached = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(reached, "/messages?sessionId=UP-1");
}

#[tokio::test]
async fn the_session_of_an_endpoint_ends_with_its_stream() {
    let store = MemoryStore::default();
    let layer = SseProxyLayer::new(store.clone()).sessions(Sessions::none().in_endpoint());
    let stream = Script::of(["event: endpoint\ndata: /messages?sessionId=UP-1\n\n"]);
    let response = crate::support::respond(
        &layer,
        Request::get("/sse").body(()).unwrap(),
        event_stream(stream),
    )
    .await;
    let (seen, _) = rest(response.into_body()).await;
    let id = endpoint_id(&seen, "/sse").to_owned();
    let proxy = Proxy::new(layer, |_| answer(""));
    // It is forgotten behind the client's back, so this may come too early.
    crate::support::soon(async {
        while proxy
            .send(ask(&format!("/sse?sessionId={id}")))
            .await
            .status()
            != StatusCode::NOT_FOUND
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn streams_with_one_endpoint_are_sessions_of_their_own() {
    let layer = SseProxyLayer::default().sessions(Sessions::none().in_endpoint());
    let stream = |last| {
        let event = "event: endpoint\ndata: /messages\n\n";
        event_stream(Script::new([
            crate::support::Step::Data(event.into()),
            last,
        ]))
    };
    let get = || Request::get("/sse").body(()).unwrap();
    let ends = crate::support::respond(&layer, get(), stream(crate::support::Step::Later)).await;
    let stays = crate::support::respond(&layer, get(), stream(crate::support::Step::Never)).await;
    let (ended, _) = rest(ends.into_body()).await;
    let mut stays = stays.into_body();
    let stayed = stays.frame().await.unwrap().unwrap().into_data().unwrap();
    let stayed = String::from_utf8(stayed.to_vec()).unwrap();
    let id = |told: &str| endpoint_id(told, "/sse").to_owned();
    assert_ne!(id(&ended), id(&stayed));
    let proxy = Proxy::new(layer, |_| answer(""));
    let status = async |told: &str| {
        let request = ask(&format!("/sse?sessionId={}", id(told)));
        proxy.send(request).await.status()
    };
    crate::support::soon(async {
        while status(&ended).await != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(status(&stayed).await, StatusCode::OK);
}

#[tokio::test]
async fn interceptors_see_what_the_client_sees() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let interceptor = move |head: &Head<'_>| {
        let all = [&head.request.headers, &head.response.headers];
        let ids = all.map(|headers: &HeaderMap| headers.get("x-session").cloned());
        seen.lock().unwrap().push(ids);
        Some(Pass)
    };
    let layer = by_header().intercept(interceptor);
    let proxy = Proxy::new(layer, |request| {
        with(opens(request), "content-type", "text/event-stream")
    });
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    proxy.send(ask("/").header("x-session", &id)).await;
    let id = Some(HeaderValue::from_str(&id).unwrap());
    assert_eq!(
        *heads.lock().unwrap(),
        [[None, id.clone()], [id.clone(), id]]
    );
}

struct Pass;

impl tower_sse_proxy::intercept::Interceptor for Pass {
    fn event(&mut self, event: Event) -> tower_sse_proxy::intercept::Verdict {
        event.into()
    }
}

#[tokio::test]
async fn a_session_is_over_when_the_rules_say_so() {
    let rules = || Sessions::header("x-session").end_by_delete_and_404();
    for (method, status, over) in [
        (Method::DELETE, 204, true),
        (Method::DELETE, 405, false),
        (Method::POST, 404, true),
        (Method::GET, 404, false),
        (Method::POST, 400, false),
        (Method::GET, 204, false),
    ] {
        let layer = SseProxyLayer::default().sessions(rules());
        let proxy = Proxy::new(layer, move |request| match request.uri().path() {
            "/" => opens(request),
            _ => {
                let mut answer = answer("");
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                answer
            }
        });
        let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
        let request = Request::builder()
            .method(method.clone())
            .uri("/end")
            .header("x-session", &id);
        assert_eq!(proxy.send(request).await.status().as_u16(), status);
        let after = proxy.send(ask("/").header("x-session", &id)).await;
        assert_eq!(
            after.status() == StatusCode::NOT_FOUND,
            over,
            "{method} {status}"
        );
    }
    // A page that is missing is not the end of a session.
    let proxy = Proxy::new(by_header(), |request| {
        let mut answer = opens(request);
        *answer.status_mut() = StatusCode::NOT_FOUND;
        answer
    });
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    proxy.send(ask("/").header("x-session", &id)).await;
    proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(proxy.asked.count(), 3);
}

#[tokio::test]
async fn what_ends_a_session_is_asked_about_as_it_came() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let ends = Arc::clone(&asked);
    let rules = Sessions::header("x-session").ends_when(move |request, response| {
        let ids = [&request.headers, &response.headers];
        let ids = ids.map(|headers| headers["x-session"].to_str().unwrap().to_owned());
        ends.lock().unwrap().push(ids);
        false
    });
    let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens);
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    // Who has no session has none that could be over.
    assert!(asked.lock().unwrap().is_empty());
    proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(*asked.lock().unwrap(), [[id, "UP-1".to_owned()]]);
}

#[test]
fn rules_that_could_never_apply_are_refused_at_once() {
    let rules: [fn(&str) -> Sessions; 6] = [
        |name| Sessions::none().in_header(name),
        |name| Sessions::none().in_cookie(name),
        |name| Sessions::none().in_query(name),
        |pointer| Sessions::none().in_data(pointer),
        |origin| Sessions::none().upstream_origin(origin),
        |prefix| Sessions::none().mounted_at(prefix),
    ];
    let [header, cookie, query, data, origin, prefix] = rules;
    for (rule, wrong) in [
        (header, "x session"),
        (cookie, ""),
        (cookie, "sid=1"),
        (cookie, "s;id"),
        (cookie, "s id"),
        (query, ""),
        (data, "session/id"),
        (data, "$.id"),
        (data, "/a~b"),
        (data, "/a~"),
        (origin, "10.0.0.7:9000"),
        (origin, "http://upstream/sse"),
        (prefix, "tools"),
        (prefix, "/tools?a"),
    ] {
        let refused = std::panic::catch_unwind(|| rule(wrong));
        let said = refused.expect_err(wrong).downcast::<String>();
        assert!(
            wrong.is_empty() || said.unwrap().contains(wrong),
            "{wrong} is not named"
        );
    }
    for (rule, fine) in [
        (cookie, "__Host-sid[0]"),
        (data, ""),
        (data, "/a~0b/~1"),
        (origin, "http://upstream:80/"),
        (prefix, ""),
        (prefix, "/"),
    ] {
        rule(fine);
    }
}

#[tokio::test]
async fn the_upstream_of_a_session_is_told_with_each_of_its_requests() {
    let proxy = Proxy::new(by_header(), |request| {
        let mut answer = opens(request);
        answer.extensions_mut().insert(UpstreamKey::new("second"));
        answer
    });
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    assert_eq!(proxy.asked.last().extensions().get::<UpstreamKey>(), None);
    proxy.send(ask("/").header("x-session", &id)).await;
    let told = proxy
        .asked
        .last()
        .extensions()
        .get::<UpstreamKey>()
        .cloned();
    assert_eq!(told, Some(UpstreamKey::new("second")));
}

#[tokio::test]
async fn owners_are_whoever_the_user_says() {
    let layer = by_header().owner(|request| {
        request
            .headers
            .get("x-user")
            .map(|user| user.as_bytes().to_vec())
    });
    let proxy = Proxy::new(layer, opens);
    let opened = proxy
        .send(
            ask("/")
                .header("x-user", "ann")
                .header("authorization", "old"),
        )
        .await;
    let id = header(&opened, "x-session").unwrap();
    let as_who = |user: &str| {
        ask("/")
            .header("x-session", &id)
            .header("x-user", user)
            .header("authorization", "new")
    };
    assert_eq!(proxy.send(as_who("ann")).await.status(), StatusCode::OK);
    assert_eq!(
        proxy.send(as_who("bob")).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn nodes_with_one_store_and_one_key_know_each_others_sessions() {
    let store = MemoryStore::default();
    let node = |key: &str| {
        let layer = SseProxyLayer::new(store.clone()).owner_key(key);
        Proxy::new(layer.sessions(Sessions::header("x-session")), opens)
    };
    let opened = node("key")
        .send(ask("/").header("authorization", "me"))
        .await;
    let id = header(&opened, "x-session").unwrap();
    let again = || {
        ask("/")
            .header("x-session", &id)
            .header("authorization", "me")
    };
    assert_eq!(node("key").send(again()).await.status(), StatusCode::OK);
    assert_eq!(
        node("another").send(again()).await.status(),
        StatusCode::NOT_FOUND
    );
}

/// A layer whose store is this function, and a policy without sessions for paths below /free.
fn stored<F, Fut, E>(ask: F) -> SseProxyLayer
where
    F: Fn(SessionRequest) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Session>, E>> + Send + 'static,
    E: Into<tower::BoxError> + 'static,
{
    let layer = SseProxyLayer::new(service_fn(ask));
    crate::support::with_free_paths(layer.sessions(Sessions::header("x-session")))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_keep_its_promises_is_a_503_and_nobody_elses_trouble() {
    let hung = Proxy::new(stored(|_| pending::<Result<_, Infallible>>()), opens);
    let failing = Proxy::new(
        stored(|_| async { Err::<Option<Session>, _>("UP-1 is secret") }),
        opens,
    );
    let full = Proxy::new(stored(|_| async { Ok::<_, Infallible>(None) }), opens);
    let panicking = Proxy::new(
        stored(|request| async move {
            panic!("asked for {request:?}");
            #[allow(unreachable_code, reason = "says of what type the answer would be")]
            Ok::<_, Infallible>(None)
        }),
        opens,
    );
    // Each gets what another one has asked for.
    let mixing = Proxy::new(
        stored(|request| async move {
            let whose = match request {
                SessionRequest::Bind(new) => NewSession::new(UpstreamId::new("UP-2"), new.owner),
                _ => NewSession::new(UpstreamId::new("UP-1"), Owner::ANONYMOUS),
            };
            let session = Session::new(SessionId::random(), whose, SystemTime::now());
            Ok::<_, Infallible>(Some(session))
        }),
        opens,
    );
    for (proxy, knows) in [
        (hung, false),
        (failing, false),
        (full, true),
        (panicking, false),
        (mixing, false),
    ] {
        let begun = tokio::time::Instant::now();
        let response = proxy.send(ask("/")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(header(&response, "x-session"), None);
        assert!(!text(response).await.contains("UP-1"));
        assert!(begun.elapsed() <= Duration::from_secs(2));
        let response = proxy.send(ask("/").header("x-session", "some")).await;
        let expected = if knows {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(response.status(), expected);
        assert_eq!(proxy.asked.count(), 1, "the upstream was asked");
        assert_eq!(proxy.send(ask("/free")).await.status(), StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_store_holds_no_permit() {
    let upstream = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(opens(&request))
        }));
    let mut proxy = stored(|_| pending::<Result<_, Infallible>>()).layer(upstream);
    let waiting = ask("/").header("x-session", "some").body(()).unwrap();
    let waiting = proxy.ready().await.unwrap().call(waiting);
    let mut waiting = Box::pin(waiting);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    // The one permit there is goes to whoever asks next.
    let free = proxy.clone().oneshot(ask("/free").body(()).unwrap());
    let free = crate::support::soon(free).await.unwrap();
    assert_eq!(free.status(), StatusCode::OK);
    drop(free);
    assert_eq!(
        waiting.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn a_layer_in_a_session_still_needs_its_service_to_be_ready() {
    // The service inside is one that panics when it is called before it is ready.
    let (service, mut handle) = tower_test::mock::pair::<Request<()>, Response<Full<Bytes>>>();
    let answer = tokio::spawn(
        by_header()
            .layer(service)
            .oneshot(ask("/").body(()).unwrap()),
    );
    handle.allow(1);
    let (request, respond) = handle.next_request().await.unwrap();
    respond.send_response(opens(&request));
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_open_keeps_its_session_alive() {
    let store = MemoryStore::default().idle_timeout(Duration::from_secs(60));
    let layer = SseProxyLayer::new(store).sessions(Sessions::header("x-session"));
    let proxy = Proxy::new(layer.clone(), opens);
    let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
    let idle = header(
        &proxy.send(ask("/").header("authorization", "other")).await,
        "x-session",
    )
    .unwrap();
    let request = Request::get("/").header("x-session", &id).body(()).unwrap();
    let stream = event_stream(Script::new([crate::support::Step::Never]));
    let open = crate::support::respond(&layer, request, stream).await;
    // Nobody polls the body: a client that does not read is still there.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let after = proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(after.status(), StatusCode::OK);
    let request = ask("/")
        .header("x-session", &idle)
        .header("authorization", "other");
    assert_eq!(proxy.send(request).await.status(), StatusCode::NOT_FOUND);
    drop(open);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let after = proxy.send(ask("/").header("x-session", &id)).await;
    assert_eq!(after.status(), StatusCode::NOT_FOUND);
}

/// A store of one session, which is idle after this time, and what becomes of it when it is touched.
fn touched(
    idle_timeout: Duration,
    touch: impl Fn() + Clone + Send + Sync + 'static,
) -> SseProxyLayer {
    let store = service_fn(move |request| {
        let touch = touch.clone();
        async move {
            let SessionRequest::Bind(new) = request else {
                touch();
                return Ok::<_, Infallible>(None);
            };
            let mut session = Session::new(SessionId::random(), new, SystemTime::now());
            session.idle_timeout = Some(idle_timeout);
            Ok(Some(session))
        }
    });
    SseProxyLayer::new(store).sessions(Sessions::header("x-session"))
}

async fn open_stream(layer: &SseProxyLayer) -> Response<SseBody<Script>> {
    let mut stream = event_stream(Script::new([crate::support::Step::Never]));
    let id = HeaderValue::from_static("UP-1");
    stream.headers_mut().insert("x-session", id);
    crate::support::respond(layer, Request::new(()), stream).await
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_for_one_stream_keeps_the_sessions_of_others_alive() {
    let (touches, mut touched_so_often) = tokio::sync::watch::channel(0);
    let layer = touched(Duration::from_secs(3), move || {
        touches.send_modify(|touches| *touches += 1);
        assert_ne!(*touches.borrow(), 1, "the first one");
    });
    let _streams = [open_stream(&layer).await, open_stream(&layer).await];
    crate::support::soon(touched_so_often.wait_for(|&touches| touches == 6))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_idle_at_once_does_not_keep_its_stream_busy() {
    let (touches, mut touched_so_often) = tokio::sync::watch::channel(0);
    let layer = touched(Duration::ZERO, move || {
        touches.send_modify(|touches| *touches += 1);
    });
    let begun = tokio::time::Instant::now();
    let _stream = open_stream(&layer).await;
    touched_so_often
        .wait_for(|&touches| touches >= 100)
        .await
        .unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_store_that_fails_in_a_stream_cuts_it() {
    let layer = SseProxyLayer::new(service_fn(|_| async { Err::<Option<Session>, _>("no") }))
        .sessions(Sessions::none().in_endpoint());
    let stream = Script::of(["data: 1\n\nevent: endpoint\ndata: /messages\n\n"]);
    let response = crate::support::respond(
        &layer,
        Request::get("/sse").body(()).unwrap(),
        event_stream(stream),
    )
    .await;
    let (seen, failed) = rest(response.into_body()).await;
    assert_eq!((&*seen, failed), ("data: 1\n\n", Some(ErrorKind::Session)));
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_does_not_carry_ids_past_the_rules() {
    let layer = SseProxyLayer::default().sessions(Sessions::none().in_data("/id"));
    let mut stream = event_stream(Script::of(["?"]));
    stream
        .headers_mut()
        .insert("content-encoding", "compress".parse().unwrap());
    let response = crate::support::respond(&layer, Request::new(()), stream).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn mcp_is_mapped_by_the_revision_of_each_request() {
    let mcp = Mcp::new(Policy::default());
    let layer = SseProxyLayer::default().policy(move |request| Some(mcp.policy(request)));
    let proxy = Proxy::new(layer, |request| {
        let id = request.headers().get("mcp-session-id");
        let id = id.map_or("UP-1", |id| id.to_str().unwrap());
        with(answer("{}"), "Mcp-Session-Id", id)
    });
    let version = |version: &str| ask("/mcp").header("MCP-Protocol-Version", version);
    let id = header(&proxy.send(ask("/mcp")).await, "mcp-session-id").unwrap();
    for old in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let request = version(old)
            .header("mcp-session-id", &id)
            .header("last-event-id", "7");
        assert_eq!(
            header(&proxy.send(request).await, "mcp-session-id").as_ref(),
            Some(&id)
        );
        assert_eq!(
            proxy.asked.header("mcp-session-id").as_deref(),
            Some("UP-1")
        );
        assert_eq!(proxy.asked.header("last-event-id").as_deref(), Some("7"));
    }
    for stolen in ["UP-1", &id] {
        let request = version("2026-07-28").uri("/mcp?sessionId=UP-1&a=1");
        let request = request
            .header("mcp-session-id", stolen)
            .header("last-event-id", "7")
            .header("mcp-method", "x");
        let response = proxy.send(request).await;
        assert_eq!(
            (response.status(), header(&response, "mcp-session-id")),
            (StatusCode::OK, None)
        );
        assert_eq!(proxy.asked.header("mcp-session-id"), None);
        assert_eq!(proxy.asked.header("last-event-id"), None);
        assert_eq!(proxy.asked.header("mcp-method").as_deref(), Some("x"));
        assert_eq!(proxy.asked.last().uri(), "/mcp?a=1");
    }
    let before = proxy.asked.count();
    let doubled = version("2025-11-25").header("mcp-protocol-version", "2026-07-28");
    assert_eq!(proxy.send(doubled).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(proxy.asked.count(), before);
}
