//! The layer forwards each event as soon as it is complete. It merges events that are ready at the same time, does not wait
//! for more, and does not change their bytes.

use std::convert::Infallible;

use crate::support::{
    BOTH, Deny, Ended, Script, Step, Upstream, cases, chunk, event, fetch, get, pass, proxy,
    sse_chunked,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::{collection::vec, prelude::*, sample::select};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    codec::Block,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

/// Holds blocks and forwards them in groups of three.
#[derive(Default)]
struct Batches(Vec<Block>);

impl Batches {
    fn opened(_: &StreamHead<'_>) -> Option<Self> {
        Some(Self::default())
    }

    fn hold(&mut self, block: Block) -> Verdict {
        self.0.push(block);
        match self.0.len() {
            3 => Verdict::Replace(std::mem::take(&mut self.0)),
            _ => Verdict::Hold,
        }
    }
}

impl Interceptor for Batches {
    fn event(&mut self, event: Event) -> Verdict {
        self.hold(event.into())
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.hold(block)
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::Replace(std::mem::take(&mut self.0))
    }
}

/// Layers that do not change the blocks that they forward.
fn layers() -> [SseProxyLayer; 4] {
    let later = |event: Event| {
        Verdict::defer(async {
            tokio::task::yield_now().await;
            Ok(event)
        })
    };
    let layer = SseProxyLayer::default;
    [
        // Reads the stream and changes nothing in it.
        layer().max_event_bytes(16 << 20),
        layer().intercept(Deny::opened),
        layer().intercept(later).intercept(later),
        layer()
            .intercept(Deny::opened)
            .intercept(|event: Event| event),
    ]
}

#[tokio::test]
async fn r25_each_event_arrives_before_the_upstream_sends_the_next_one() {
    for layer in layers() {
        for protocol in BOTH {
            let mut upstream = Upstream::start().await;
            let proxy = proxy(layer.clone(), upstream.address).await;
            let head = async {
                let mut exchange = upstream.next().await;
                exchange.write(sse_chunked()).await;
                exchange
            };
            let (mut exchange, mut answer) = tokio::join!(head, get(protocol, proxy));
            for text in [
                "data: 1\n\n",
                "id: 2\r\nevent: x\r\ndata: 2\r\n\r\n",
                "data: 3\r\r",
                "id: 4\n\n",
                // These blocks are complete without a blank line, and without another byte after a CR.
                ": comment\n",
                ":\r",
                "retry: 10\n",
                "data: \n\n",
            ] {
                exchange.chunk(text).await;
                answer.expect(text).await;
            }
            for byte in "data: dribbled\n".bytes() {
                exchange.chunk([byte]).await;
            }
            exchange.chunk("\n").await;
            answer.expect("data: dribbled\n\n").await;
            exchange.write("0\r\n\r\n").await;
            let (rest, ended) = answer.rest().await;
            assert_eq!((&*rest, ended.is_clean()), (&b""[..], true));
        }
    }
}

/// Streams with all kinds of lines and line ends in random order.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        "data: x",
        "data:",
        "data",
        "id: 1",
        "id",
        "event: e",
        "retry: 5",
        "retry",
        ":",
        ": c",
        "unknown: y",
        "y",
        "\u{feff}",
        "ü",
        "\u{2028}",
        "\0",
        " ",
        "\n",
        "\n",
        "\n\n",
        "\r",
        "\r\n",
        "\r\n\r\n",
        "\r\r",
        "\n\r",
    ]);
    (any::<bool>(), vec(piece, 0..40)).prop_map(|(bom, pieces)| {
        let text = if bom { "\u{feff}" } else { "" }.to_owned() + &pieces.concat();
        text.into_bytes()
    })
}

/// Splits `text` into frames at random places, with pauses and empty frames.
fn frames(text: &[u8], cuts: &[(prop::sample::Index, bool)]) -> Script {
    let mut places: Vec<_> = cuts
        .iter()
        .map(|(at, later)| (at.index(text.len() + 1), *later))
        .collect();
    places.sort_unstable();
    let mut steps = Vec::new();
    let mut from = 0;
    for (to, later) in places {
        steps.push(Step::Data(Bytes::copy_from_slice(&text[from..to])));
        steps.extend(later.then_some(Step::Later));
        from = to;
    }
    steps.push(Step::Data(Bytes::copy_from_slice(&text[from..])));
    Script::new(steps)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

async fn out(layer: &SseProxyLayer, script: Script) -> Vec<u8> {
    let body = pass(layer, script).await;
    body.collect().await.unwrap().to_bytes().into()
}

#[test]
fn r15_unedited_stream_is_forwarded_byte_for_byte_in_any_chunks() {
    let runtime = runtime();
    let holding = SseProxyLayer::default().intercept(Batches::opened);
    let layers: Vec<_> = layers().into_iter().chain([holding]).collect();
    let cuts = vec(any::<(prop::sample::Index, bool)>(), 0..12);
    proptest!(cases(200), |(text in text(), cuts in cuts)| {
        for layer in &layers {
            let out = runtime.block_on(out(layer, frames(&text, &cuts)));
            prop_assert_eq!(out.escape_ascii().to_string(), text.escape_ascii().to_string());
        }
    });
}

#[test]
fn any_bytes_are_forwarded_unchanged_without_interceptors() {
    let runtime = runtime();
    let layer = SseProxyLayer::default().max_event_bytes(16 << 20);
    let cuts = vec(any::<(prop::sample::Index, bool)>(), 0..12);
    let bytes = vec(select(b"\xef\xbb\xbf\xff\n\r\n\r: d\0".to_vec()), 0..80);
    proptest!(|(bytes in bytes, cuts in cuts)| {
        let out = runtime.block_on(out(&layer, frames(&bytes, &cuts)));
        prop_assert_eq!(out, bytes);
    });
}

#[tokio::test]
async fn events_ready_at_the_same_time_are_merged() {
    let events: Vec<_> = (0..1000).map(|n| event(&n.to_string())).collect();
    for layer in layers() {
        let mut body = pass(&layer, Script::of(events.clone())).await;
        let (mut all, mut frames) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
            frames += 1;
        }
        assert_eq!(all, events.concat());
        assert!(frames <= 40, "{frames} frames for 1000 ready events");
    }
}

/// The layer merges small events and does not merge large ones. Neither may overtake the other.
#[tokio::test]
async fn ready_events_of_any_size_keep_their_order() {
    let sizes = [1, 10, 9 << 10, 1, 100 << 10, 20 << 10, 1000];
    let data = sizes.iter().cycle().enumerate().take(60);
    let events: Vec<_> = data
        .map(|(n, &size)| event(&format!("{n} {}", "x".repeat(size))))
        .collect();
    let text = Bytes::from(events.concat());
    for layer in layers() {
        let in_chunks = |size| Script::of(text.chunks(size).map(Bytes::copy_from_slice));
        for script in [
            Script::of(events.clone()),
            in_chunks(5000),
            in_chunks(text.len()),
        ] {
            let out = out(&layer, script).await;
            assert!(out == text, "output differs from the input");
        }
    }
}

#[tokio::test]
async fn merged_frames_have_a_size_limit() {
    let large = event(&"x".repeat(10 << 10));
    for layer in layers() {
        let mut body = pass(&layer, Script::of(vec![large.clone(); 100])).await;
        let mut all = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap().into_data().unwrap();
            assert!(frame.len() <= 128 << 10, "a frame of {} bytes", frame.len());
            all += frame.len();
        }
        assert_eq!(all, 100 * large.len());
    }
}

/// An upstream that is always ready must not starve the client or fill the memory.
#[tokio::test]
async fn upstream_that_never_pauses_reaches_the_client() {
    for layer in layers() {
        let upstream = stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(event("again"))));
        let mut body = pass(&layer, StreamBody::new(upstream)).await;
        for _ in 0..100 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(frame.starts_with(b"data: again\n\n") && frame.len() < 1 << 20);
        }
    }
}

#[tokio::test]
async fn r07_trailers_follow_the_last_event() {
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "3".parse().unwrap())]
        .into_iter()
        .collect();
    for layer in layers() {
        let script = Script::of(["data: 1\n\n"]).then(Step::Trailers(trailers.clone()));
        let all = pass(&layer, script).await.collect().await.unwrap();
        assert_eq!(all.trailers(), Some(&trailers));
        assert_eq!(all.to_bytes(), "data: 1\n\n");

        for protocol in BOTH {
            let last = [&chunk(b"data: 1\n\n")[..], b"0\r\nx-sum: 3\r\n\r\n"].concat();
            let head = sse_chunked().replace("\r\n\r\n", "\r\ntrailer: x-sum\r\n\r\n");
            let upstream = Upstream::answering([head.as_bytes(), &last].concat()).await;
            let proxy = proxy(layer.clone(), upstream).await;
            let request = Request::get("/").header("te", "trailers");
            let answer = fetch(protocol, proxy, request.body(Bytes::new()).unwrap()).await;
            let (body, ended) = answer.rest().await;
            assert_eq!(body, "data: 1\n\n");
            assert_eq!(ended, Ended::Clean(trailers.clone()), "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn large_event_arrives_complete() {
    let large = event(&"x".repeat(1 << 20));
    let text = [&b"data: before\n\n"[..], &large, b"data: after\n\n"].concat();
    for layer in [layers()[0].clone(), layers()[1].clone()] {
        for protocol in BOTH {
            for size in [1000, 1 << 16, text.len()] {
                let mut upstream = Upstream::start().await;
                let proxy = proxy(layer.clone(), upstream.address).await;
                let upstream = async {
                    let mut exchange = upstream.next().await;
                    exchange.write(sse_chunked()).await;
                    for part in text.chunks(size) {
                        exchange.chunk(part).await;
                    }
                    exchange.write("0\r\n\r\n").await;
                };
                let client = async { get(protocol, proxy).await.rest().await };
                let ((), (body, ended)) = tokio::join!(upstream, client);
                assert!(body == text, "{} bytes of {}", body.len(), text.len());
                assert!(ended.is_clean());
            }
        }
    }
}
