//! However a stream ends: the client sees what it was, every interceptor is told once, and nothing that had
//! been allowed is lost.

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

/// What an upstream does once its head is out.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Sends this in one chunk, and then the final one.
    Finish(&'static str),
    /// The same, and then the connection ends without the final chunk.
    Stop(&'static str),
    /// A chunk that stops half-way.
    Short(&'static str),
    /// Sends this and an event that is too large.
    Large(&'static str),
}

impl Deed {
    async fn do_it(self, mut exchange: Exchange) {
        exchange.write(sse_chunked()).await;
        match self {
            Deed::Finish(text) => {
                let end = [&crate::support::chunk(text.as_bytes())[..], b"0\r\n\r\n"].concat();
                exchange.write(end).await;
            }
            Deed::Stop(text) => exchange.chunk(text).await,
            Deed::Short(text) => exchange.write(format!("ff\r\n{text}")).await,
            Deed::Large(text) => {
                exchange
                    .chunk(format!("{text}data: {}", "x".repeat(1000)))
                    .await;
                exchange.closed().await;
            }
        }
    }
}

/// What a client gets of it.
async fn seen(layer: SseProxyLayer, protocol: Protocol, deed: Deed) -> (Bytes, Ended) {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(layer, upstream.address).await;
    let upstream = async { deed.do_it(upstream.next().await).await };
    let client = async { get(protocol, proxy).await.rest().await };
    tokio::join!(upstream, client).1
}

#[tokio::test]
async fn the_last_event_before_a_cut_arrives_and_the_cut_looks_cut() {
    for deed in [
        Deed::Stop("data: 1\n\n"),
        Deed::Short("data: 1\n\n"),
        Deed::Large("data: 1\n\n"),
        Deed::Finish("data: 1\n\ndata: fail\n\n"),
        Deed::Finish("data: 1\n\ndata: panic\n\ndata: 2\n\n"),
    ] {
        for protocol in BOTH {
            let (body, ended) = seen(witnessed_layer().0, protocol, deed).await;
            assert_eq!(body, "data: 1\n\n", "{deed:?} {protocol:?}");
            assert_eq!(ended, Ended::Cut, "{deed:?} {protocol:?}");
        }
    }
}

/// A client far away takes what there is window by window, and its server has more waiting than one window holds.
#[tokio::test]
async fn the_last_event_before_a_cut_arrives_at_a_client_that_takes_its_time() {
    let events: String = (0..400)
        .map(|n| format!("data: {n} {}\n\n", "x".repeat(1000)))
        .collect();
    let events: &'static str = events.leak();
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let proxy = proxy(SseProxyLayer::default(), upstream.address).await;
        let asking = tokio::spawn(async move { get(protocol, proxy).await });
        let deed = tokio::spawn(Deed::Stop(events).do_it(upstream.next().await));
        let mut client = asking.await.unwrap();
        let mut got = 0;
        let ended = loop {
            // As long as it takes to come and go.
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
        deed.await.unwrap();
        assert_eq!((got, ended), (events.len(), Ended::Cut), "{protocol:?}");
    }
}

/// The same where body and connection run at once, and the one may be faster than the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_event_before_a_cut_arrives_from_a_busy_server_too() {
    let deed = Deed::Finish("data: 1\n\ndata: fail\n\n");
    for _ in 0..10 {
        let together = BOTH.repeat(10);
        let together = together
            .into_iter()
            .map(|protocol| tokio::spawn(seen(witnessed_layer().0, protocol, deed)));
        for (body, ended) in try_join_all(together).await.unwrap() {
            assert_eq!((&*body, ended), (&b"data: 1\n\n"[..], Ended::Cut));
        }
    }
}

#[tokio::test]
async fn an_upstream_that_resets_its_connection_looks_cut() {
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
async fn every_interceptor_is_told_once_how_the_stream_ended() {
    let upstream = ErrorKind::Upstream;
    for (deed, end) in [
        (Deed::Finish(""), Note::Complete),
        (Deed::Finish("data: 1\n\n"), Note::Complete),
        (
            Deed::Finish("data: 1\n\ndata: end\n\ndata: 2\n\n"),
            Note::Complete,
        ),
        (Deed::Finish("data: half"), Note::Truncated),
        (Deed::Finish("data: 1\n\ndata: [DONE]\n"), Note::Truncated),
        (Deed::Stop("data: 1\n\n"), Note::Failed(upstream)),
        (Deed::Stop("data: half"), Note::Failed(upstream)),
        (Deed::Short(""), Note::Failed(upstream)),
        (Deed::Large(""), Note::Failed(ErrorKind::EventTooLarge)),
        (
            Deed::Finish("data: fail\n\n"),
            Note::Failed(ErrorKind::InterceptorFailed),
        ),
        (
            Deed::Finish("data: panic\n\n"),
            Note::Failed(ErrorKind::InterceptorPanicked),
        ),
    ] {
        for protocol in BOTH {
            let (layer, mut notes) = witnessed_layer();
            let (_, ended) = seen(layer, protocol, deed).await;
            assert_eq!(
                ended.is_clean(),
                !matches!(end, Note::Failed(_)),
                "{deed:?}"
            );
            for notes in &mut notes {
                assert_eq!(notes.ends().await, std::slice::from_ref(&end), "{deed:?}");
            }
        }
    }
}

/// Says good-bye, whatever happened.
struct Polite;

impl Interceptor for Polite {
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
async fn what_an_interceptor_adds_at_the_end_arrives_before_it() {
    for (deed, text, clean) in [
        (
            Deed::Finish("data: 1\n\n"),
            "data: 1\n\ndata: complete\n\ndata: bye\n\n",
            true,
        ),
        // What was half done cannot be followed by anything, so it is dropped, as clients would.
        (
            Deed::Finish("data: half"),
            "data: truncated\n\ndata: bye\n\n",
            true,
        ),
        (
            Deed::Stop("data: 1\n\n"),
            "data: 1\n\ndata: failed\n\ndata: bye\n\n",
            false,
        ),
        (Deed::Large(""), "data: failed\n\ndata: bye\n\n", false),
    ] {
        for protocol in BOTH {
            let layer = SseProxyLayer::default()
                .intercept(|_: &StreamHead<'_>| Some(Polite))
                .max_event_bytes(1000);
            let (body, ended) = seen(layer, protocol, deed).await;
            assert_eq!(body, text, "{deed:?}");
            assert_eq!(ended.is_clean(), clean, "{deed:?}");
        }
    }
}

#[tokio::test]
async fn an_unfinished_rest_leaves_as_it_came_and_is_never_completed() {
    for text in [
        "data: 1\n\ndata: [DONE]\n",
        "data: ha",
        "id: 7",
        "\u{feff}data: 1\r",
        "da",
    ] {
        for layer in [SseProxyLayer::default(), witnessed_layer().0] {
            let (body, ended) = seen(layer, Protocol::Http1, Deed::Finish(text)).await;
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
        let (body, _) = seen(shout.clone(), Protocol::Http1, Deed::Finish(text)).await;
        assert_eq!(body, edited);
    }
}

#[tokio::test]
async fn a_stream_can_go_on_without_an_event_that_is_too_large() {
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
async fn a_stream_that_an_interceptor_ends_lets_the_upstream_go_at_once() {
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
