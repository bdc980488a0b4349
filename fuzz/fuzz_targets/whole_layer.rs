//! The layer between hyper's server and hyper's client, in memory: a client sends arbitrary requests, and an upstream arbitrary responses,
//! in arbitrary chunks. For any policy:
//!
//! * no code panics, and the connection ends once both sides have sent everything;
//! * no inspected body contains the word that an interceptor or a text window removes;
//! * without interceptors, each body equals the upstream's, and is complete only if the upstream's is;
//! * each stream that was opened has one record.
//!
//! Time is virtual.

#![no_main]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{HeaderName, Request, Response};
use hyper::{body::Incoming, client::conn::http1 as client, server::conn::http1 as server};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    runtime::Builder,
    time::{sleep, timeout},
};
use tower::{Layer, service_fn};
use tower_sse_proxy::{
    Event, KeepAlive, SseProxyLayer,
    codec::Block,
    intercept::{
        Interceptor, StreamHead, Verdict,
        window::{Decision, TextSegment, TextWindow},
    },
    observe::{StreamInfo, StreamObserver, StreamRecord},
    replay::{Replay, StreamId},
    session::SessionMapping,
};

const WORD: &[u8] = b"BAD";

/// Longer than the time until any response is complete.
const HOUR: Duration = Duration::from_secs(3600);

/// Longer than all limits of the layer and of hyper.
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Arbitrary, Debug)]
struct Input {
    policy: Policy,
    requests: Vec<Ask>,
    client_chunks: Vec<u8>,
    /// The responses to the requests in order. If the requests outnumber them, they repeat.
    answers: Vec<Answer>,
}

#[derive(Arbitrary, Debug)]
struct Policy {
    chain: Option<ChainKind>,
    replays: bool,
    maps_sessions: bool,
    inspects_json: bool,
    has_early_head: bool,
    keeps_alive: bool,
    strips_comments: bool,
    is_observed: bool,
}

#[derive(Arbitrary, Debug)]
enum ChainKind {
    Drop,
    Edit,
    Window,
}

#[derive(Arbitrary, Debug)]
enum Ask {
    Get,
    Head,
    Post(u8),
    Resume(u8),
    Close,
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Answer {
    status: Status,
    media_type: MediaType,
    framing: Framing,
    body: Vec<Text>,
    /// Bytes that are missing at the end of the body.
    missing: u8,
    /// Bytes of the framed body that are changed.
    noise: Vec<(u16, u8)>,
    chunks: Vec<u8>,
    delay: u8,
}

#[derive(Arbitrary, Debug)]
enum Status {
    Ok,
    PartialContent,
    NotFound,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum MediaType {
    EventStream,
    EventStreamWithParameter,
    Json,
    Text,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Framing {
    Chunked,
    Length,
    UntilClose,
}

/// Pieces of bodies, with which the fuzzer finds the word and the grammar sooner.
#[derive(Arbitrary, Debug)]
enum Text {
    Word,
    PartOfWord(u8),
    Data,
    Id,
    EventType,
    Retry,
    Comment,
    Lf,
    Cr,
    End,
    Bom,
    Bytes(Vec<u8>),
    Long(u16),
}

impl Ask {
    fn wire(&self) -> Vec<u8> {
        let head = |method: &str, fields: &str| {
            format!("{method} / HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n{fields}\r\n")
        };
        match self {
            Ask::Get => head("GET", "").into(),
            Ask::Head => head("HEAD", "").into(),
            Ask::Post(length) => {
                let mut wire = head("POST", &format!("content-length: {length}\r\n")).into_bytes();
                wire.resize(wire.len() + usize::from(*length), b'x');
                wire
            }
            Ask::Resume(id) => head("GET", &format!("last-event-id: {id}\r\n")).into(),
            Ask::Close => head("GET", "connection: close\r\n").into(),
            Ask::Raw(bytes) => bytes.clone(),
        }
    }
}

impl Text {
    fn bytes(&self) -> Bytes {
        match self {
            Text::Word => Bytes::from_static(WORD),
            Text::PartOfWord(n) => {
                Bytes::from_static([&b"B"[..], b"A", b"D", b"BA", b"AD"][usize::from(n % 5)])
            }
            Text::Data => Bytes::from_static(b"data: "),
            Text::Id => Bytes::from_static(b"id: "),
            Text::EventType => Bytes::from_static(b"event: "),
            Text::Retry => Bytes::from_static(b"retry: "),
            Text::Comment => Bytes::from_static(b":"),
            Text::Lf => Bytes::from_static(b"\n"),
            Text::Cr => Bytes::from_static(b"\r"),
            Text::End => Bytes::from_static(b"\n\n"),
            Text::Bom => Bytes::from_static("\u{feff}".as_bytes()),
            Text::Bytes(bytes) => Bytes::copy_from_slice(bytes),
            Text::Long(length) => vec![b'x'; usize::from(*length)].into(),
        }
    }
}

impl Answer {
    fn body(&self) -> Vec<u8> {
        self.body.iter().flat_map(Text::bytes).collect()
    }

    /// The response on the wire.
    fn wire(&self) -> Vec<u8> {
        let status = match self.status {
            Status::Ok => "200 OK",
            Status::PartialContent => "206 Partial Content",
            Status::NotFound => "404 Not Found",
        };
        let media_type = match self.media_type {
            MediaType::EventStream => "text/event-stream",
            MediaType::EventStreamWithParameter => "Text/Event-Stream; charset=utf-8",
            MediaType::Json => "application/json",
            MediaType::Text => "text/plain",
        };
        let body = self.body();
        let (field, mut framed) = match self.framing {
            Framing::Chunked => {
                let mut framed = Vec::new();
                for piece in self.body.iter().map(Text::bytes) {
                    if !piece.is_empty() {
                        framed.extend(format!("{:x}\r\n", piece.len()).bytes());
                        framed.extend(piece);
                        framed.extend(b"\r\n");
                    }
                }
                framed.extend(b"0\r\n\r\n");
                ("transfer-encoding: chunked\r\n".to_owned(), framed)
            }
            Framing::Length => (format!("content-length: {}\r\n", body.len()), body),
            Framing::UntilClose => (String::new(), body),
        };
        framed.truncate(framed.len().saturating_sub(usize::from(self.missing)));
        for (at, change) in &self.noise {
            if let Some(byte) = framed.get_mut(usize::from(*at)) {
                *byte ^= change;
            }
        }
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\nx-session: 1\r\n{field}\r\n"
        );
        [head.into_bytes(), framed].concat()
    }

    /// The body that a client has to get, and whether it is complete. `None` if the upstream breaks HTTP.
    fn expected(&self) -> Option<(Vec<u8>, bool)> {
        if !self.noise.is_empty() {
            return None;
        }
        let mut body = self.body();
        let missing = usize::from(self.missing);
        match self.framing {
            // The last chunk has 5 bytes.
            Framing::Chunked if missing > 0 => Some((body, false)),
            Framing::Length if missing > 0 && !body.is_empty() => Some((body, false)),
            Framing::UntilClose => {
                body.truncate(body.len().saturating_sub(missing));
                Some((body, true))
            }
            Framing::Chunked | Framing::Length => Some((body, true)),
        }
    }
}

/// Cuts bytes into chunks of these sizes.
fn chunks(mut rest: Vec<u8>, sizes: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    for size in sizes {
        let after = rest.split_off(usize::from(*size).min(rest.len()));
        chunks.push(rest);
        rest = after;
    }
    chunks.push(rest);
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

fn found(text: &[u8]) -> bool {
    text.windows(WORD.len()).any(|window| window == WORD)
}

struct Deny;

impl Interceptor for Deny {
    fn event(&mut self, event: Event) -> Verdict {
        let bad = found(event.data().as_bytes()) || found(event.as_bytes());
        (!bad).then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!found(block.as_bytes())).then_some(block).into()
    }
}

/// Replaces an event with the word by another one.
struct Edit;

impl Interceptor for Edit {
    fn event(&mut self, mut event: Event) -> Verdict {
        if found(event.as_bytes()) || found(event.data().as_bytes()) {
            event = Event::new("edited");
        }
        event.into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!found(block.as_bytes())).then_some(block).into()
    }
}

fn mask(segment: &TextSegment) -> Decision {
    let word = std::str::from_utf8(WORD).unwrap();
    let found = segment.text.match_indices(word);
    Decision::mask(found.map(|(at, word)| at..at + word.len()), "[-]")
}

/// Counts how often each stream was opened and closed.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<HashMap<StreamId, (usize, usize)>>>);

impl StreamObserver for Counts {
    fn opened(&self, stream: &StreamInfo) {
        self.0.lock().unwrap().entry(stream.id).or_default().0 += 1;
    }

    fn closed(&self, record: &StreamRecord) {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(record.id).or_default();
        count.1 += 1;
        assert_eq!(count.0, usize::from(record.opened), "{record:?}");
    }
}

impl Policy {
    fn layer(&self, counts: &Counts) -> SseProxyLayer {
        let mut layer = SseProxyLayer::default();
        layer = match self.chain {
            Some(ChainKind::Drop) => layer.intercept(|_: &StreamHead<'_>| Some(Deny)),
            Some(ChainKind::Edit) => layer.intercept(|_: &StreamHead<'_>| Some(Edit)),
            Some(ChainKind::Window) => layer.intercept(TextWindow::new(mask)),
            None => layer,
        };
        if self.replays {
            layer = layer.replay(Replay::default().grace_period(Duration::from_secs(5)));
        }
        if self.maps_sessions {
            let name = HeaderName::from_static("x-session");
            layer = layer.sessions(SessionMapping::header(name));
        }
        if self.inspects_json {
            layer = layer.inspect_json(1 << 16);
        }
        if self.has_early_head {
            layer = layer.early_head(Duration::from_secs(10));
        }
        if self.keeps_alive {
            layer = layer.keep_alive(KeepAlive::new(Duration::from_millis(20)));
        }
        if self.is_observed {
            layer = layer.observe(counts.clone());
        }
        layer.strip_comments(self.strips_comments)
    }

    /// Whether a body passes unchanged.
    fn is_transparent(&self) -> bool {
        let reads = self.chain.is_some() || self.replays || self.maps_sessions;
        !(reads || self.has_early_head || self.keeps_alive || self.strips_comments)
    }
}

/// A response as the client sees it.
#[derive(Debug)]
struct Seen {
    media_type: String,
    body: Vec<u8>,
    is_complete: bool,
}

/// Reads the responses to requests with these methods.
fn parse(mut wire: &[u8], asks: &[Ask]) -> Vec<Seen> {
    let mut asks = asks.iter();
    let mut all = Vec::new();
    while let Some(end) = wire.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&wire[..end]).to_ascii_lowercase();
        wire = &wire[end + 4..];
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let Some(status) = status else { break };
        if status < 200 {
            continue;
        }
        let field = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let has_no_body = matches!(asks.next(), Some(Ask::Head)) || matches!(status, 204 | 304);
        let (body, is_complete) = if has_no_body {
            (Vec::new(), true)
        } else if field("transfer-encoding") == Some("chunked") {
            dechunk(&mut wire)
        } else if let Some(length) = field("content-length") {
            let length = length.parse::<usize>().unwrap();
            let (body, rest) = wire.split_at(length.min(wire.len()));
            wire = rest;
            (body.to_vec(), body.len() == length)
        } else {
            (std::mem::take(&mut wire).to_vec(), true)
        };
        all.push(Seen {
            media_type: field("content-type").unwrap_or_default().to_owned(),
            body,
            is_complete,
        });
    }
    all
}

fn dechunk(wire: &mut &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = wire.windows(2).position(|bytes| bytes == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&wire[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        *wire = &wire[end + 2..];
        let (data, rest) = wire.split_at(size.min(wire.len()));
        body.extend_from_slice(data);
        let Some(rest) = rest.strip_prefix(b"\r\n").filter(|_| data.len() == size) else {
            *wire = &[];
            return (body, false);
        };
        *wire = rest;
        if size == 0 {
            return (body, true);
        }
    }
}

/// The data of each event in a stream (WHATWG HTML 9.2.6).
fn event_data(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let events = text.split("\n\n").map(|block| {
        let data = block.lines().filter_map(|line| line.strip_prefix("data:"));
        let data = data.map(|data| data.strip_prefix(' ').unwrap_or(data));
        data.collect::<Vec<_>>().join("\n")
    });
    events.collect()
}

async fn send(to: &mut (impl AsyncWriteExt + Unpin), chunks: Vec<Vec<u8>>) {
    for chunk in chunks {
        if to.write_all(&chunk).await.is_err() {
            return;
        }
        match chunk.len() % 3 {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => sleep(Duration::from_millis(7)).await,
        }
    }
}

/// Answers one request, and closes the connection.
async fn answer(connection: DuplexStream, chunks: Vec<Vec<u8>>, delay: Duration) {
    let (mut from, mut to) = split(connection);
    let mut buffer = [0; 1024];
    // A client fails if the response arrives before its request.
    if from.read(&mut buffer).await.is_err() {
        return;
    }
    // Until the client has sent its request: hyper does not end some connections whose response comes before that.
    sleep(Duration::from_secs(5) + delay).await;
    send(&mut to, chunks).await;
    let _ = to.shutdown().await;
    while from.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// Forwards a request on a new connection.
async fn forward(
    request: Request<Incoming>,
    chunks: Vec<Vec<u8>>,
    delay: Duration,
) -> Result<Response<Incoming>, hyper::Error> {
    let (near, far) = duplex(1 << 12);
    tokio::spawn(answer(far, chunks, delay));
    let (mut sender, connection) = client::handshake(TokioIo::new(near)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// Passes the requests through the layer. Returns what the client gets.
async fn serve(input: &Input, counts: &Counts) -> Vec<u8> {
    let answers = input.answers.iter().map(|answer| {
        let delay = Duration::from_millis(u64::from(answer.delay) * 50);
        (chunks(answer.wire(), &answer.chunks), delay)
    });
    let answers: Vec<_> = answers.collect();
    let calls = Arc::new(AtomicUsize::new(0));
    let upstream = service_fn(move |request: Request<Incoming>| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        let (chunks, delay): (Vec<_>, _) = Clone::clone(&answers[call % answers.len()]);
        forward(request, chunks, delay)
    });
    let service = input.policy.layer(counts).layer(upstream);

    let (near, far) = duplex(1 << 12);
    let served = server::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(service));
    let served = tokio::spawn(served);
    let (mut from, mut to) = split(near);
    let requests = input.requests.iter().flat_map(Ask::wire).collect();
    let requests = chunks(requests, &input.client_chunks);
    let sends = tokio::spawn(async move {
        send(&mut to, requests).await;
        // hyper treats the end of the requests as a disconnect, so all responses have to be complete before it.
        sleep(HOUR).await;
        let _ = to.shutdown().await;
    });
    let mut out = Vec::new();
    let _ = from.read_to_end(&mut out).await;
    // The server has closed the connection. Its error says why, if it failed.
    let _ = served.await.expect("the server panicked");
    sends.abort();
    out
}

fuzz_target!(|input: Input| {
    if input.answers.is_empty() || input.requests.len() > 16 {
        return;
    }
    let counts = Counts::default();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let out = runtime.block_on(async {
        let served = timeout(DAY, serve(&input, &counts));
        let out = served.await.expect("the connection does not end");
        // Streams without a client end, too.
        sleep(DAY).await;
        out
    });
    for (stream, count) in &*counts.0.lock().unwrap() {
        assert!(
            count.1 == 1,
            "{stream:?}: opened and closed {count:?} times"
        );
    }

    let seen = parse(&out, &input.requests);
    for response in &seen {
        let is_stream = response.media_type.starts_with("text/event-stream");
        let is_json = input.policy.inspects_json && response.media_type == "application/json";
        match input.policy.chain {
            Some(ChainKind::Drop | ChainKind::Edit) if is_stream || is_json => {
                assert!(!found(&response.body), "{response:?}");
            }
            Some(ChainKind::Window) if is_stream => {
                for data in event_data(&response.body) {
                    let is_json = data.trim_start().starts_with(['{', '[', '"']);
                    assert!(is_json || !found(data.as_bytes()), "{data:?}");
                }
            }
            _ => {}
        }
    }

    let has_raw = input.requests.iter().any(|ask| matches!(ask, Ask::Raw(_)));
    if !input.policy.is_transparent() || has_raw {
        return;
    }
    for (n, response) in seen.iter().enumerate() {
        let Some((body, is_complete)) = input.answers[n % input.answers.len()].expected() else {
            return;
        };
        if matches!(input.requests[n], Ask::Head) {
            continue;
        }
        if is_complete {
            assert_eq!(response.body, body, "response {n}");
            assert!(response.is_complete, "response {n}");
        } else {
            assert!(body.starts_with(&response.body), "response {n}");
            assert!(!response.is_complete, "response {n}");
            return;
        }
    }
    let mut at_least = 0;
    for (n, ask) in input.requests.iter().enumerate() {
        let answer = input.answers[n % input.answers.len()].expected();
        // hyper drops the head of a response whose body fails at once.
        if !answer.is_some_and(|(_, is_complete)| is_complete) {
            break;
        }
        at_least = n + 1;
        // hyper closes a connection when a response ends before the body of its request.
        if matches!(ask, Ask::Close | Ask::Post(_)) {
            break;
        }
    }
    assert!(seen.len() >= at_least, "{seen:?}");
});
