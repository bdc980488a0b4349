//! Ends of streams: the client sees how the stream ended, each interceptor gets one `end` call, and no event that the
//! interceptors let through is lost.

use std::time::Duration;

use crate::support::{
    BOTH, Ended, Exchange, Note, Protocol, Read, Upstream, get, proxy, sse_chunked, witnessed_layer,
};
use bytes::Bytes;
use futures_util::future::try_join_all;
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    codec::OversizedEvent,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

/// The data that an upstream sends after its head.
#[derive(Clone, Copy, Debug)]
enum Output {
    /// This text in one chunk, and then the final chunk.
    Finish(&'static str),
    /// This text in one chunk; then the connection ends without the final chunk.
    Stop(&'static str),
    /// A chunk with this text that ends before its declared length.
    Short(&'static str),
    /// This text and then an event above the size limit.
    Large(&'static str),
}

impl Output {
    async fn send(self, mut exchange: Exchange) {
        exchange.write(sse_chunked()).await;
        match self {
            Output::Finish(text) => {
                let end = [&crate::support::chunk(text.as_bytes())[..], b"0\r\n\r\n"].concat();
                exchange.write(end).await;
            }
            Output::Stop(text) => exchange.chunk(text).await,
            Output::Short(text) => exchange.write(format!("ff\r\n{text}")).await,
            Output::Large(text) => {
                exchange
                    .chunk(format!("{text}data: {}", "x".repeat(1000)))
                    .await;
                exchange.closed().await;
            }
        }
    }
}

/// Passes the upstream's output through the layer. Returns the body that the client reads and how it ended.
async fn pass_through(layer: SseProxyLayer, protocol: Protocol, output: Output) -> (Bytes, Ended) {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(layer, upstream.address).await;
    let upstream = async { output.send(upstream.next().await).await };
    let client = async { get(protocol, proxy).await.rest().await };
    tokio::join!(upstream, client).1
}

#[tokio::test]
async fn client_gets_the_last_event_before_a_cut_and_sees_the_cut() {
    for output in [
        Output::Stop("data: 1\n\n"),
        Output::Short("data: 1\n\n"),
        Output::Large("data: 1\n\n"),
        Output::Finish("data: 1\n\ndata: fail\n\n"),
        Output::Finish("data: 1\n\ndata: panic\n\ndata: 2\n\n"),
    ] {
        for protocol in BOTH {
            let (body, ended) = pass_through(witnessed_layer().0, protocol, output).await;
            assert_eq!(body, "data: 1\n\n", "{output:?} {protocol:?}");
            assert_eq!(ended, Ended::Cut, "{output:?} {protocol:?}");
        }
    }
}

/// The client reads one flow-control window at a time, and the server holds more than one window of unsent data.
#[tokio::test]
async fn slow_client_gets_the_last_event_before_a_cut() {
    let events: String = (0..400)
        .map(|n| format!("data: {n} {}\n\n", "x".repeat(1000)))
        .collect();
    let events: &'static str = events.leak();
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(SseProxyLayer::default(), upstream.address).await;
        let asking = tokio::spawn(async move { get(protocol, proxy).await });
        let output = tokio::spawn(Output::Stop(events).send(upstream.next().await));
        let mut client = asking.await.unwrap();
        let mut got = 0;
        let ended = loop {
            // One round trip to a distant client.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut taken = 0;
            let ended = loop {
                if taken >= 60_000 {
                    break None;
                }
                match client.read().await {
                    Read::Data(data) => taken += data.len(),
                    Read::Over(ended) => break Some(ended),
                }
            };
            got += taken;
            if let Some(ended) = ended {
                break ended;
            }
        };
        output.await.unwrap();
        assert_eq!((got, ended), (events.len(), Ended::Cut), "{protocol:?}");
    }
}

/// Body and connection run on different threads, so either may be faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn client_of_a_busy_server_gets_the_last_event_before_a_cut() {
    let output = Output::Finish("data: 1\n\ndata: fail\n\n");
    for _ in 0..10 {
        let together = BOTH.repeat(10);
        let together = together
            .into_iter()
            .map(|protocol| tokio::spawn(pass_through(witnessed_layer().0, protocol, output)));
        for (body, ended) in try_join_all(together).await.unwrap() {
            assert_eq!((&*body, ended), (&b"data: 1\n\n"[..], Ended::Cut));
        }
    }
}

#[tokio::test]
async fn client_sees_a_cut_when_the_upstream_resets_its_connection() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(witnessed_layer().0, upstream.address).await;
        let upstream = async {
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange.chunk("data: 1\n\n").await;
            exchange.wire.reset();
        };
        let client = async { get(protocol, proxy).await.rest().await };
        let ((), (body, ended)) = tokio::join!(upstream, client);
        assert_eq!((&*body, ended), (&b"data: 1\n\n"[..], Ended::Cut));
    }
}

#[tokio::test]
async fn each_interceptor_gets_one_end_call_with_the_outcome() {
    let upstream = ErrorKind::Upstream;
    for (output, end) in [
        (Output::Finish(""), Note::Complete),
        (Output::Finish("data: 1\n\n"), Note::Complete),
        (
            Output::Finish("data: 1\n\ndata: end\n\ndata: 2\n\n"),
            Note::Complete,
        ),
        (Output::Finish("data: half"), Note::Truncated),
        (Output::Finish("data: 1\n\ndata: [DONE]\n"), Note::Truncated),
        (Output::Stop("data: 1\n\n"), Note::Failed(upstream)),
        (Output::Stop("data: half"), Note::Failed(upstream)),
        (Output::Short(""), Note::Failed(upstream)),
        (Output::Large(""), Note::Failed(ErrorKind::EventTooLarge)),
        (
            Output::Finish("data: fail\n\n"),
            Note::Failed(ErrorKind::InterceptorFailed),
        ),
        (
            Output::Finish("data: panic\n\n"),
            Note::Failed(ErrorKind::InterceptorPanicked),
        ),
    ] {
        for protocol in BOTH {
            let (layer, mut notes) = witnessed_layer();
            let (_, ended) = pass_through(layer, protocol, output).await;
            assert_eq!(
                ended.is_clean(),
                !matches!(end, Note::Failed(_)),
                "{output:?}"
            );
            for notes in &mut notes {
                assert_eq!(notes.ends().await, std::slice::from_ref(&end), "{output:?}");
            }
        }
    }
}

/// Adds two events at the end of the stream, however it ends.
struct AddsAtEnd;

impl Interceptor for AddsAtEnd {
    fn event(&mut self, event: Event) -> Verdict {
        event.into()
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let word = match end {
            StreamEnd::Complete => "complete",
            StreamEnd::Truncated => "truncated",
            StreamEnd::Failed(_) => "failed",
            _ => "gone",
        };
        vec![Event::new(word), Event::new("bye")].into()
    }
}

#[tokio::test]
async fn events_added_at_the_end_are_sent_before_the_end() {
    for (output, text, clean) in [
        (
            Output::Finish("data: 1\n\n"),
            "data: 1\n\ndata: complete\n\ndata: bye\n\n",
            true,
        ),
        // Nothing can follow an unfinished event, so the layer drops it, as clients do.
        (
            Output::Finish("data: half"),
            "data: truncated\n\ndata: bye\n\n",
            true,
        ),
        (
            Output::Stop("data: 1\n\n"),
            "data: 1\n\ndata: failed\n\ndata: bye\n\n",
            false,
        ),
        (Output::Large(""), "data: failed\n\ndata: bye\n\n", false),
    ] {
        for protocol in BOTH {
            let layer = SseProxyLayer::default()
                .intercept(|_: &StreamHead<'_>| Some(AddsAtEnd))
                .max_event_bytes(1000);
            let (body, ended) = pass_through(layer, protocol, output).await;
            assert_eq!(body, text, "{output:?}");
            assert_eq!(ended.is_clean(), clean, "{output:?}");
        }
    }
}

#[tokio::test]
async fn unfinished_last_event_is_forwarded_and_not_completed() {
    for text in [
        "data: 1\n\ndata: [DONE]\n",
        "data: ha",
        "id: 7",
        "\u{feff}data: 1\r",
        "da",
    ] {
        for layer in [SseProxyLayer::default(), witnessed_layer().0] {
            let (body, ended) = pass_through(layer, Protocol::Http1, Output::Finish(text)).await;
            assert_eq!(body, text);
            assert!(ended.is_clean());
        }
    }
    let shout = SseProxyLayer::default().intercept(|mut event: Event| {
        assert!(!event.is_terminated());
        event.set_data(event.data().to_uppercase());
        event
    });
    for (text, edited) in [
        ("data: ha", "data: HA"),
        ("id:1\ndata: ha\n", "id:1\ndata: HA\n"),
    ] {
        let (body, _) = pass_through(shout.clone(), Protocol::Http1, Output::Finish(text)).await;
        assert_eq!(body, edited);
    }
}

#[tokio::test]
async fn stream_continues_after_a_discarded_oversized_event() {
    let (layer, [mut notes, _]) = witnessed_layer();
    let layer = layer.oversized_event(OversizedEvent::Discard);
    let mut upstream = Upstream::start().await;
    let proxy = proxy(layer, upstream.address).await;
    let upstream = async {
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        exchange.chunk("data: 1\n\ndata: ").await;
        for _ in 0..3 {
            exchange.chunk("x".repeat(900)).await;
        }
        exchange.chunk("\ndata: y\n\ndata: 2\n\n").await;
        exchange.write("0\r\n\r\n").await;
    };
    let client = async { get(Protocol::Http1, proxy).await.rest().await };
    let ((), (body, ended)) = tokio::join!(upstream, client);
    assert_eq!(body, "data: 1\n\ndata: 2\n\n");
    assert!(ended.is_clean());
    let [one, two] = ["1", "2"].map(|data| Note::Event(data.into()));
    assert_eq!(notes.until_dropped().await, [one, two, Note::Complete]);
}

#[tokio::test]
async fn stream_ended_by_an_interceptor_closes_the_upstream_at_once() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(witnessed_layer().0, upstream.address).await;
        let upstream = async {
            let mut exchange = upstream.next().await;
            exchange.write(sse_chunked()).await;
            exchange.chunk("data: 1\n\ndata: end\n\ndata: 2\n\n").await;
            exchange.closed().await;
        };
        let client = async { get(protocol, proxy).await.rest().await };
        let ((), (body, ended)) = tokio::join!(upstream, client);
        assert_eq!(body, "data: 1\n\ndata: end\n\n");
        assert!(ended.is_clean());
    }
}
