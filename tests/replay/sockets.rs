//! Replay between real sockets, with HTTP/1.1 and HTTP/2.

use std::{net::SocketAddr, ops::Range, time::Instant};

use crate::support::{
    Answer, BOTH, Ended, Exchange, Protocol, Read, Upstream, fetch, field, proxy, sse_chunked,
};
use bytes::Bytes;
use http::{Method, Request};
use tokio::sync::watch;
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    profile::Mcp,
    replay::{Replay, Retention},
    session::MemoryStore,
};

fn recorded() -> SseProxyLayer {
    with(Replay::default())
}

fn with(replay: Replay) -> SseProxyLayer {
    SseProxyLayer::default().replay(replay)
}

/// A request that resumes after the event with this id.
fn request(method: Method, path: &str, after: Option<&str>, body: &'static str) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(id) = after {
        builder = builder.header("last-event-id", id);
    }
    builder.body(body.into()).unwrap()
}

fn get(after: Option<&str>) -> Request<Bytes> {
    request(Method::GET, "/", after, "")
}

/// The events that a client has read, on all of its connections.
#[derive(Default)]
struct Seen {
    data: Vec<String>,
    ids: Vec<String>,
    unfinished: String,
}

impl Seen {
    fn take(&mut self, text: &[u8]) {
        self.unfinished += std::str::from_utf8(text).unwrap();
        while let Some(end) = self.unfinished.find("\n\n") {
            let rest = self.unfinished.split_off(end + 2);
            let event = std::mem::replace(&mut self.unfinished, rest);
            self.ids.push(field(&event, "id").expect("an id"));
            self.data.push(field(&event, "data").expect("data"));
        }
    }

    /// The id of the last event, for the next request.
    fn id(&self) -> Option<&str> {
        self.ids.last().map(String::as_str)
    }

    /// Drops all events but the first `events`.
    fn truncate(&mut self, events: usize) {
        self.data.truncate(events);
        self.ids.truncate(events);
        self.unfinished.clear();
    }

    /// Reads until it has `events` events, or until the end of the response.
    async fn read(&mut self, answer: &mut Answer, events: usize) -> Option<Ended> {
        while self.data.len() < events {
            match answer.read().await {
                Read::Data(data) => self.take(&data),
                Read::Over(ended) => return Some(ended),
            }
        }
        None
    }

    /// Reads until the last of `events` events, and drops a random part of the last data that it read.
    async fn read_and_truncate(
        &mut self,
        answer: &mut Answer,
        events: usize,
        chance: &mut fastrand::Rng,
    ) {
        while self.data.len() < events {
            let Read::Data(data) = answer.read().await else {
                panic!("the response ended");
            };
            let last = self.data.len() + data.windows(2).filter(|end| end == b"\n\n").count();
            let got = if last < events {
                data.len()
            } else {
                chance.usize(..data.len())
            };
            self.take(&data[..got]);
            if got < data.len() {
                break;
            }
        }
        self.unfinished.clear();
    }
}

fn numbers(range: Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn disconnect(answer: Answer, chance: &mut fastrand::Rng) {
    match chance.bool() {
        true => answer.reset(),
        false => drop(answer),
    }
}

#[tokio::test]
async fn client_that_disconnects_a_hundred_times_misses_nothing() {
    const CUTS: usize = 100;
    let disconnect_often = async |protocol| {
        let seed = fastrand::u64(..);
        println!("{protocol:?}: seed {seed}");
        let mut chance = fastrand::Rng::with_seed(seed);
        let spans: Vec<_> = (0..CUTS).map(|_| chance.usize(1..=28)).collect();
        let events = spans.iter().sum::<usize>() + 30;

        let mut upstream = Upstream::start().await;
        let proxy = proxy(recorded(), upstream.address).await;
        let sent = tokio::spawn(fetch(protocol, proxy, get(None)));
        let mut exchange = upstream.next().await;
        // The upstream sends only a few events more than the client has read, on fast and slow machines.
        let (ahead, mut allowed) = watch::channel(1);
        let fed = tokio::spawn(async move {
            exchange.write(sse_chunked()).await;
            for number in 0..events {
                allowed.wait_for(|&allowed| number < allowed).await.unwrap();
                let filler = "x".repeat(number % 200);
                exchange
                    .chunk(format!("id: up-{number}\n: {filler}\ndata: {number}\n\n"))
                    .await;
            }
            exchange.chunk("data: [DONE]\n\n").await;
            exchange.write("0\r\n\r\n").await;
        });

        let begun = Instant::now();
        let mut answer = sent.await.unwrap();
        let mut seen = Seen::default();
        // A client without an event id cannot resume.
        seen.read(&mut answer, 1).await;
        for span in spans {
            let events = seen.data.len() + span;
            ahead.send_replace(events);
            seen.read_and_truncate(&mut answer, events, &mut chance)
                .await;
            disconnect(answer, &mut chance);
            ahead.send_replace(events + chance.usize(..3));
            answer = fetch(protocol, proxy, get(seen.id())).await;
            assert_eq!(answer.status, 200);
        }
        ahead.send_replace(events);
        let ended = seen.read(&mut answer, usize::MAX).await.unwrap();
        assert!(ended.is_clean());
        let mut expected = numbers(0..events);
        expected.push("[DONE]".into());
        assert_eq!(seen.data, expected, "seed {seed}");
        assert_eq!(upstream.requests(), 1);
        fed.await.unwrap();
        println!(
            "{protocol:?}: {events} events and {CUTS} cuts in {:?}",
            begun.elapsed()
        );
    };
    tokio::join!(
        disconnect_often(Protocol::Http1),
        disconnect_often(Protocol::Http2)
    );
}

#[tokio::test]
async fn post_that_is_sent_again_reaches_the_upstream_once() {
    let tokens = ["To", " be", ",", " or", " not", " to", " be", "[DONE]"];
    let event = |token: &str| format!("data: {{\"delta\":\"{token}\"}}\n\n");
    let post = |id: Option<&str>| request(Method::POST, "/v1/chat", id, r#"{"stream":true}"#);
    for protocol in BOTH {
        for finished in [false, true] {
            let mut upstream = Upstream::start().await;
            let proxy = proxy(recorded(), upstream.address).await;
            let sent = tokio::spawn(fetch(protocol, proxy, post(None)));
            let mut exchange = upstream.next().await;
            assert_eq!(exchange.body().await, r#"{"stream":true}"#);
            exchange.write(sse_chunked()).await;
            for token in &tokens[..5] {
                exchange.chunk(event(token)).await;
            }
            let mut answer = sent.await.unwrap();
            let mut seen = Seen::default();
            seen.read(&mut answer, 3).await;
            answer.reset();
            let more = async {
                for token in &tokens[5..] {
                    exchange.chunk(event(token)).await;
                }
                exchange.write("0\r\n\r\n").await;
            };
            seen.truncate(3);
            let mut again = if finished {
                more.await;
                fetch(protocol, proxy, post(seen.id())).await
            } else {
                let again = fetch(protocol, proxy, post(seen.id())).await;
                more.await;
                again
            };
            let ended = seen.read(&mut again, usize::MAX).await.unwrap();
            assert!(ended.is_clean());
            let expected = tokens.map(|token| format!("{{\"delta\":\"{token}\"}}"));
            assert_eq!(seen.data, expected);
            assert_eq!(upstream.requests(), 1);
        }
    }
}

#[tokio::test]
async fn r34_slow_reader_stops_the_upstream_and_loses_nothing() {
    const MOST: usize = 64 << 20;
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let bounds = Retention::default().events(50).bytes(100_000);
        let proxy = proxy(with(Replay::default().retention(bounds)), upstream.address).await;
        let open = |sent: tokio::task::JoinHandle<Answer>, mut exchange: Exchange| async {
            exchange.write(sse_chunked()).await;
            (sent.await.unwrap(), exchange)
        };
        let sent = tokio::spawn(fetch(protocol, proxy, get(None)));
        let (mut other, mut ticks) = open(sent, upstream.next().await).await;
        let sent = tokio::spawn(fetch(protocol, proxy, get(None)));
        let (mut answer, exchange) = open(sent, upstream.next().await).await;

        let filler = "x".repeat(500);
        let events = move |chunk: usize| {
            let numbers = 100 * chunk..100 * (chunk + 1);
            let events = numbers.map(|number| format!(": {filler}\ndata: {number}\n\n"));
            events.collect()
        };
        let flood = exchange.flood(events, MOST);
        let (chunks, bytes) = flood
            .until_stalled(async || {
                ticks.chunk("data: tick\n\n").await;
                other.until("tick\n\n").await;
            })
            .await;
        assert!(bytes < MOST, "the client does not read");
        let mut seen = Seen::default();
        seen.read(&mut answer, 100 * chunks).await;
        assert_eq!(seen.data[..100 * chunks], numbers(0..100 * chunks));
    }
}

#[tokio::test]
async fn stream_that_may_not_detach_closes_the_upstream_connection() {
    for protocol in BOTH {
        for reset in [false, true] {
            let layer = with(Replay::default().detach_when(|_, _| false));
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer, upstream.address).await;
            let sent = tokio::spawn(fetch(protocol, proxy, get(None)));
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange.chunk("data: 0\n\ndata: 1\n\n").await;
            let mut answer = sent.await.unwrap();
            let mut seen = Seen::default();
            seen.read(&mut answer, 1).await;
            seen.truncate(1);
            match reset {
                true => answer.reset(),
                false => drop(answer.leave()),
            }
            exchange.closed().await;
            // The log has all events that were sent, and the stream ends with a cut.
            let mut again = fetch(protocol, proxy, get(seen.id())).await;
            assert_eq!(seen.read(&mut again, usize::MAX).await, Some(Ended::Cut));
            assert_eq!(seen.data, ["0", "1"]);
        }
        // A stream cannot detach before its response head.
        let mut upstream = Upstream::start().await;
        let proxy = proxy(recorded(), upstream.address).await;
        let sent = tokio::spawn(fetch(protocol, proxy, get(None)));
        let exchange = upstream.next().await;
        sent.abort();
        exchange.closed().await;
    }
}

#[tokio::test]
async fn replay_of_an_ended_or_broken_stream_has_the_same_end() {
    for protocol in BOTH {
        for broken in [false, true] {
            let check = |ended: Ended| match ended {
                // HTTP/1.1 sends only trailers that a `Trailer` field names, and only to clients with `TE: trailers`.
                Ended::Clean(trailers) if protocol == Protocol::Http2 => {
                    assert!(!broken && trailers["x-sum"] == "1");
                }
                ended => assert_eq!(ended.is_clean(), !broken),
            };
            let mut upstream = Upstream::start().await;
            let proxy = proxy(recorded(), upstream.address).await;
            let sent = tokio::spawn(fetch(protocol, proxy, get(None)));
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            // Without a terminal event, because a stream that breaks after one is complete.
            let last = if broken { "2" } else { "[DONE]" };
            let events = format!("data: 0\n\ndata: 1\n\ndata: {last}\n\n");
            exchange.chunk(events).await;
            let mut answer = sent.await.unwrap();
            let mut seen = Seen::default();
            if broken {
                seen.read(&mut answer, 3).await;
                exchange.wire.reset();
            } else {
                exchange.write("0\r\nx-sum: 1\r\n\r\n").await;
            }
            let ended = seen.read(&mut answer, usize::MAX).await.unwrap();
            check(ended);
            assert_eq!(seen.data, ["0", "1", last]);
            let id = seen.ids[2].clone();

            seen.truncate(1);
            let mut again = fetch(protocol, proxy, get(seen.id())).await;
            let ended = seen.read(&mut again, usize::MAX).await.unwrap();
            check(ended);
            assert_eq!(seen.data, ["0", "1", last]);

            let answer = fetch(protocol, proxy, get(Some(&id))).await;
            if broken {
                assert_eq!(answer.status, 200);
                let (text, ended) = answer.rest().await;
                assert!(ended.is_clean());
                assert_eq!(text, "event: gap\nid: \ndata: {\"reason\":\"failed\"}\n\n");
            } else {
                assert_eq!(answer.status, 204);
                assert_eq!(answer.rest().await.0, "");
            }
            assert_eq!(upstream.requests(), 1);
        }
    }
}

/// An MCP client, the proxy, and the upstream behind it.
struct McpSetup {
    protocol: Protocol,
    proxy: SocketAddr,
    upstream: Upstream,
}

impl McpSetup {
    async fn start(protocol: Protocol) -> Self {
        let mcp = Mcp::new(Policy::default().replay(Replay::default()));
        let layer = SseProxyLayer::new(MemoryStore::default())
            .policy(move |request, _| mcp.policy(request));
        let upstream = Upstream::start().await;
        let proxy = proxy(layer, upstream.address).await;
        Self {
            protocol,
            proxy,
            upstream,
        }
    }

    /// Sends a request that the layer forwards to the upstream.
    async fn send(
        &mut self,
        request: http::request::Builder,
        answered: impl AsyncFnOnce(&mut Exchange),
    ) -> (Answer, Exchange) {
        let body = Bytes::from_static(b"{}");
        let sent = fetch(self.protocol, self.proxy, request.body(body).unwrap());
        let sent = tokio::spawn(sent);
        let mut exchange = self.upstream.next().await;
        exchange.body().await;
        answered(&mut exchange).await;
        (sent.await.unwrap(), exchange)
    }

    /// Sends a request that the layer answers.
    async fn send_to_layer(&self, request: http::request::Builder) -> Answer {
        fetch(
            self.protocol,
            self.proxy,
            request.body(Bytes::new()).unwrap(),
        )
        .await
    }
}

#[tokio::test]
async fn polling_mcp_server_is_resumed_only_at_the_end_of_the_log() {
    for protocol in BOTH {
        let mut mcp = McpSetup::start(protocol).await;
        let initialize = Request::post("/mcp").header("mcp-protocol-version", "2025-11-25");
        let (answer, _) = mcp
            .send(initialize, async |exchange| {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: UP-1\r\n\
                    content-length: 2\r\nconnection: close\r\n\r\n{}";
                exchange.write(head).await;
            })
            .await;
        let session = answer.header("mcp-session-id").unwrap().to_owned();
        assert_ne!(session, "UP-1");
        let in_session = |request: http::request::Builder| {
            request
                .header("mcp-protocol-version", "2025-11-25")
                .header("mcp-session-id", &session)
        };
        let after = |id: &str| in_session(Request::get("/mcp").header("last-event-id", id));

        let (mut answer, _) = mcp
            .send(in_session(Request::post("/mcp")), async |exchange| {
                exchange.write(sse_chunked()).await;
                exchange.chunk("id: up-1\ndata: \n\n").await;
                exchange
                    .chunk("id: up-2\ndata: {\"method\":\"progress\"}\n\n")
                    .await;
                // With `retry` and a clean end, a server of this revision asks the client to poll.
                exchange.chunk("retry: 10\n\n").await;
                exchange.write("0\r\n\r\n").await;
            })
            .await;
        let mut text = String::new();
        loop {
            match answer.read().await {
                Read::Data(data) => text += std::str::from_utf8(&data).unwrap(),
                Read::Over(ended) => {
                    assert!(ended.is_clean());
                    break;
                }
            }
        }
        assert!(text.ends_with("retry: 10\n\n"), "{text}");
        assert!(!text.contains("up-"), "{text}");
        let mut seen = Seen::default();
        seen.take(text.trim_end_matches("retry: 10\n\n").as_bytes());
        // The priming events of the layer and of the upstream have no data.
        assert_eq!(seen.data, ["", "", r#"{"method":"progress"}"#]);
        let requests_before = mcp.upstream.requests();
        for from in 0..2 {
            let mut again = mcp.send_to_layer(after(&seen.ids[from])).await;
            let event = again.until("progress\"}\n\n").await;
            assert!(!String::from_utf8_lossy(&event).contains("up-"));
            assert!(again.rest().await.1.is_clean());
        }
        assert_eq!(
            mcp.upstream.requests(),
            requests_before,
            "the log has all events"
        );

        let (mut again, exchange) = mcp
            .send(after(seen.id().unwrap()), async |exchange| {
                exchange.write(sse_chunked()).await;
                exchange
                    .chunk("id: up-3\ndata: {\"id\":1,\"result\":{}}\n\n")
                    .await;
                exchange.write("0\r\n\r\n").await;
            })
            .await;
        let head = exchange.head.to_ascii_lowercase();
        assert!(head.starts_with("get /mcp "), "{head}");
        assert!(head.contains("\r\nlast-event-id: up-2\r\n"), "{head}");
        assert!(head.contains("\r\nmcp-session-id: up-1\r\n"), "{head}");
        let text = again.until("result\":{}}\n\n").await;
        let text = String::from_utf8_lossy(&text).replace("retry: 10\n\n", "");
        seen.take(text.as_bytes());
        assert!(again.rest().await.1.is_clean());
        assert_eq!(seen.data[3], r#"{"id":1,"result":{}}"#);
        let stream_of = |id: &str| id.split('.').next().unwrap().to_owned();
        assert_eq!(
            stream_of(&seen.ids[3]),
            stream_of(&seen.ids[0]),
            "the same stream"
        );
        // The stream is complete.
        assert_eq!(mcp.send_to_layer(after(&seen.ids[3])).await.status, 204);
        // A request without a session cannot resume the stream.
        let request = Request::get("/mcp").header("last-event-id", &seen.ids[0]);
        let request = request.header("mcp-protocol-version", "2025-11-25");
        assert_eq!(mcp.send_to_layer(request).await.status, 400);
        assert_eq!(mcp.upstream.requests(), requests_before + 1);
    }
}

#[tokio::test]
async fn r33_streams_of_the_stateless_mcp_revision_are_not_recorded() {
    for protocol in BOTH {
        let mut mcp = McpSetup::start(protocol).await;
        let request = Request::post("/mcp")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-session-id", "stolen")
            .header("last-event-id", "0123456789abcdef0123456789abcdef.0.7");
        let (mut answer, exchange) = mcp
            .send(request, async |exchange| {
                exchange.write(sse_chunked()).await;
                exchange.chunk("data: {\"method\":\"progress\"}\n\n").await;
            })
            .await;
        let head = exchange.head.to_ascii_lowercase();
        assert!(
            !head.contains("last-event-id") && !head.contains("stolen"),
            "{head}"
        );
        answer.expect("data: {\"method\":\"progress\"}\n\n").await;
        let _connection = answer.leave();
        exchange.closed().await;
    }
}

#[tokio::test]
async fn streams_of_the_first_mcp_revision_get_no_ids() {
    for protocol in BOTH {
        let mut mcp = McpSetup::start(protocol).await;
        let (mut answer, exchange) = mcp
            .send(Request::get("/m/sse"), async |exchange| {
                exchange.write(sse_chunked()).await;
                exchange
                    .chunk("event: endpoint\ndata: /m/messages?session_id=UP-1\n\n")
                    .await;
                exchange
                    .chunk("event: message\ndata: {\"id\":1,\"result\":{}}\n\n")
                    .await;
            })
            .await;
        let text = answer.until("result\":{}}\n\n").await;
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(
            text.starts_with("event: endpoint\ndata: /m/sse?sessionId="),
            "{text}"
        );
        assert!(
            text.ends_with("\n\nevent: message\ndata: {\"id\":1,\"result\":{}}\n\n"),
            "{text}"
        );
        assert!(!text.contains("id: "), "{text}");
        let _connection = answer.leave();
        exchange.closed().await;
    }
}
