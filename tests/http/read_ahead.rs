//! The layer reads event streams that arrive over HTTP/2 ahead of their clients. These tests use virtual time; `http2` tests it over sockets.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_compression::tokio::write::GzipEncoder;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, Version, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, channel::Channel};
use hyper::body::Incoming;
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, KeepAlive, SseBody, SseProxyLayer,
    intercept::Verdict,
    observe::StreamOutcome,
    replay::{Replay, Retention},
};

use crate::support::{
    BOTH, Broken, Records, Script, Step, Taken, event, event_stream, get, layer, origin::settle,
    pass, recorded, respond, rest, serve,
};

const KIB: usize = 1 << 10;

/// Passes a response with the version HTTP/2 through the layer.
pub fn over_http2<B>(body: B) -> Response<B> {
    let mut response = event_stream(body);
    *response.version_mut() = Version::HTTP_2;
    response
}

pub async fn pass_http2<B>(layer: &SseProxyLayer, body: B) -> SseBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let response = respond(layer, Request::new(()), over_http2(body)).await;
    response.into_body()
}

/// Layers that handle a stream in different ways: pass it unread or read it, each with and without an observer.
pub fn layers() -> Vec<(&'static str, SseProxyLayer, Option<Records>)> {
    let plain = || SseProxyLayer::default();
    let read = || layer(|event: Event| event);
    let (observed, records) = recorded(plain());
    let (read_and_observed, read_records) = recorded(read());
    vec![
        ("unread", plain(), None),
        ("observed", observed, Some(records)),
        ("read", read(), None),
        ("read and observed", read_and_observed, Some(read_records)),
    ]
}

/// An event of this size.
fn event_of(bytes: usize) -> Bytes {
    event(&"x".repeat(bytes - event("").len()))
}

/// An upstream that has sent `count` events, and waits.
fn waiting(count: usize, event: &Bytes) -> Script {
    Script::of(std::iter::repeat_n(event.clone(), count)).then(Step::Never)
}

#[tokio::test(start_paused = true)]
async fn stream_of_small_frames_is_cut_at_the_limit() {
    for (name, layer, records) in layers() {
        let layer = layer.read_ahead(64 * KIB);
        // A little less than the limit.
        let small = event_of(64);
        let script = waiting(1023, &small);
        let taken = script.taken();
        let body = pass_http2(&layer, script).await;
        settle().await;
        assert_eq!(taken.frames(), 1023, "{name}");
        assert!(!taken.is_dropped(), "{name}");
        drop(body);

        let script = waiting(1025, &small);
        let taken = script.taken();
        let body = pass_http2(&layer, script).await;
        settle().await;
        assert_eq!(taken.frames(), 1024, "{name}");
        assert!(taken.is_dropped(), "{name}");
        let expected = match &records {
            Some(records) => {
                let outcomes = records.outcomes().await;
                let expected = [StreamOutcome::ClientLeft, StreamOutcome::Stalled];
                assert_eq!(outcomes, expected, "{name}");
                ErrorKind::Aborted
            }
            None => ErrorKind::Lagged,
        };
        let (text, failed) = rest(body).await;
        assert_eq!((text.as_str(), failed), ("", Some(expected)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn stream_of_large_frames_is_cut_when_its_client_takes_nothing() {
    for (name, layer, records) in layers() {
        let layer = layer.read_ahead(64 * KIB);
        let script = waiting(65, &event_of(2 * KIB));
        let taken = script.taken();
        let body = pass_http2(&layer, script).await;
        settle().await;
        assert_eq!(taken.frames(), 32, "{name}");
        sleep(Duration::from_secs(29)).await;
        assert!(!taken.is_dropped(), "{name}");
        sleep(Duration::from_secs(2)).await;
        assert!(taken.is_dropped(), "{name}");
        if let Some(records) = records {
            assert_eq!(records.outcomes().await, [StreamOutcome::Stalled]);
        }
        assert!(rest(body).await.1.is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_client_that_takes_something_gets_all_large_frames() {
    for (name, layer, records) in layers() {
        let layer = layer.read_ahead(64 * KIB);
        let large = event_of(8 * KIB);
        let script = Script::of(std::iter::repeat_n(large.clone(), 100));
        let taken = script.taken();
        let mut body = pass_http2(&layer, script).await;
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame.unwrap().into_data().unwrap());
            // The layer may notice only after 256 KiB that a client takes something: here within 23 s.
            sleep(Duration::from_millis(700)).await;
            let ahead = 8 * KIB * taken.frames().min(100) - read.len();
            assert!(ahead <= (64 + 256) * KIB, "{name}: {ahead}");
        }
        assert_eq!(Bytes::from(read), large.repeat(100), "{name}");
        if let Some(records) = records {
            assert_eq!(records.outcomes().await, [StreamOutcome::Completed]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn frames_are_read_on_while_an_interceptor_works() {
    let layer = layer(|event: Event| {
        Verdict::defer(async move {
            sleep(Duration::from_secs(5)).await;
            Ok::<_, BoxError>(event)
        })
    });
    let small = event_of(16);
    let script = Script::of(std::iter::repeat_n(small.clone(), 500));
    let taken = script.taken();
    let mut body = pass_http2(&layer, script).await;
    let reads = tokio::spawn(async move { body.frame().await.unwrap().unwrap() });
    settle().await;
    assert_eq!(taken.frames(), 501, "with the end");
    assert_eq!(reads.await.unwrap().into_data().unwrap(), small);
}

/// The client has read everything, so the next frame of the upstream would wake the server. But the server waits for the client to take a
/// comment, and does not poll.
#[tokio::test(start_paused = true)]
async fn frames_are_read_on_after_the_client_has_stopped_at_a_comment() {
    let keep_alive = KeepAlive::new(Duration::from_secs(15));
    let layer = SseProxyLayer::default().keep_alive(keep_alive);
    let (mut feed, body) = Channel::<Bytes>::new(1);
    let mut body = pass_http2(&layer, body).await;
    feed.send_data(event("1")).await.unwrap();
    body.frame().await.unwrap().unwrap();
    let comment = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(comment.starts_with(b":"));
    for _ in 0..100 {
        let sent = timeout(Duration::from_secs(1), feed.send_data(event("2")));
        sent.await.expect("the upstream is read").unwrap();
    }
}

/// The number of frames that the layer has read from a body, after all ready tasks have run.
async fn frames(taken: &Taken) -> usize {
    settle().await;
    taken.frames()
}

#[tokio::test(start_paused = true)]
async fn only_streams_over_http2_are_read_ahead() {
    for (name, layer, _) in layers() {
        let script = waiting(10, &event_of(64));
        let taken = script.taken();
        let mut body = pass(&layer, script).await;
        assert_eq!(frames(&taken).await, 0, "{name}");
        body.frame().await.unwrap().unwrap();
        let read = taken.frames();
        assert_eq!(frames(&taken).await, read, "{name}");

        let script = waiting(10, &event_of(64));
        let taken = script.taken();
        let _body = pass_http2(&layer.read_ahead(0), script).await;
        assert_eq!(frames(&taken).await, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_comes_back_gets_the_same_bytes_and_end() {
    let blocks: Vec<_> = (0..3000)
        .map(|n| event(&"x".repeat(n % 997 * n % 17)))
        .collect();
    let all: Bytes = blocks.concat().into();
    let trailers = HeaderMap::from_iter([(header::ETAG, "1".parse().unwrap())]);
    for (name, layer, records) in layers() {
        for end in [Step::Trailers(trailers.clone()), Step::Error] {
            let is_clean = !matches!(end, Step::Error);
            let script = Script::of(blocks.clone()).then(end);
            let taken = script.taken();
            let mut body = pass_http2(&layer, script).await;
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            frames(&taken).await;
            assert!(taken.is_dropped(), "{name}: read to its end");
            assert!(!body.is_end_stream(), "{name}");
            let mut read = Vec::from(first);
            let mut got = None;
            let failed = loop {
                match body.frame().await {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => read.extend_from_slice(&data),
                        Err(frame) => got = frame.into_trailers().ok(),
                    },
                    Some(Err(error)) => break Some(error.kind()),
                    None => break None,
                }
            };
            assert_eq!(Bytes::from(read), all, "{name}");
            assert_eq!(got.is_some(), is_clean, "{name}");
            assert_eq!(failed, (!is_clean).then_some(ErrorKind::Upstream), "{name}");
        }
        if let Some(records) = records {
            let expected = [StreamOutcome::Completed, StreamOutcome::UpstreamError];
            assert_eq!(records.outcomes().await, expected, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_body_cancels_the_upstream_at_once() {
    for (name, layer, _) in layers() {
        let script = waiting(10, &event_of(64));
        let taken = script.taken();
        let body = pass_http2(&layer, script).await;
        frames(&taken).await;
        drop(body);
        assert!(taken.is_dropped(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_read_ahead_count_as_buffered() {
    for (name, layer, records) in layers() {
        let Some(records) = records else { continue };
        let layer = layer.max_buffered_bytes(100 * KIB);
        let streams = layer.streams();
        let mut body = pass_http2(&layer, waiting(64, &event_of(1000))).await;
        settle().await;
        assert_eq!(streams.buffered_bytes(), 64_000, "{name}");
        assert_eq!(streams.list()[0].buffered, 64_000, "{name}");
        let mut read = 0;
        while read < 64_000 {
            read += body
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .len();
        }
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(streams.buffered_bytes(), 0, "{name}");

        let large = pass_http2(&layer, waiting(60, &event_of(1000))).await;
        let larger = pass_http2(&layer, waiting(70, &event_of(1000))).await;
        assert_eq!(
            records.outcomes().await,
            [StreamOutcome::Overflow],
            "{name}"
        );
        let held = streams.buffered_bytes();
        assert!([60_000, 70_000].contains(&held), "{name}: {held}");
        drop((body, large, larger));
        assert_eq!(streams.buffered_bytes(), 0, "{name}");
    }
}

/// Frames of a gzip body, one for each event.
async fn gzip(count: usize) -> Vec<Bytes> {
    let mut encoder = GzipEncoder::new(Vec::new());
    let mut frames = Vec::new();
    for number in 0..count {
        encoder
            .write_all(&event(&number.to_string()))
            .await
            .unwrap();
        encoder.flush().await.unwrap();
        frames.push(std::mem::take(encoder.get_mut()).into());
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn encoded_stream_is_cut_at_the_limit() {
    let frames = gzip(5000).await;
    let size: usize = frames.iter().map(Bytes::len).sum();
    assert!(size > 32 * KIB);
    for (name, layer, records) in layers() {
        let layer = layer.read_ahead(32 * KIB);
        let script = Script::of(frames.clone()).then(Step::Never);
        let taken = script.taken();
        let mut response = over_http2(script);
        let coding = "gzip".parse().unwrap();
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, coding);
        let body = respond(&layer, Request::new(()), response)
            .await
            .into_body();
        settle().await;
        assert!(taken.is_dropped(), "{name}");
        let expected = match records {
            Some(records) => {
                assert_eq!(records.outcomes().await, [StreamOutcome::Stalled], "{name}");
                ErrorKind::Aborted
            }
            None => ErrorKind::Lagged,
        };
        assert_eq!(rest(body).await.1, Some(expected), "{name}");
    }
}

/// The writer of a recorded stream waits for the only client, while the layer reads ahead.
#[tokio::test(start_paused = true)]
async fn recorded_stream_of_a_client_that_does_not_read_is_cut() {
    let retention = Retention::default().bytes(16 * KIB);
    for observes in [false, true] {
        let layer = SseProxyLayer::default().replay(Replay::default().retention(retention));
        let (layer, records) = match observes {
            true => {
                let (layer, records) = recorded(layer);
                (layer, Some(records))
            }
            false => (layer, None),
        };
        let script = waiting(4000, &event_of(64));
        let taken = script.taken();
        let body = pass_http2(&layer.read_ahead(64 * KIB), script).await;
        settle().await;
        assert!(taken.is_dropped());
        if let Some(records) = records {
            assert_eq!(records.outcomes().await, [StreamOutcome::Stalled]);
        }
        let (text, failed) = rest(body).await;
        assert!(text.contains("data: xxx"), "what was recorded");
        assert!(failed.is_some());
    }
}

/// Without a runtime, the layer cannot start the task that reads ahead.
#[test]
fn stream_outside_of_a_runtime_is_read_by_its_client() {
    let script = Script::of([event("1"), event("2")]);
    let layer = SseProxyLayer::default();
    let body = pass_http2(&layer, script).now_or_never().unwrap();
    let (text, failed) = rest(body).now_or_never().unwrap();
    assert_eq!((text.as_str(), failed), ("data: 1\n\ndata: 2\n\n", None));
}

/// Returns the response of the layer late, so that the task may have read the body before the server looks at it.
async fn serve_late<B>(layer: SseProxyLayer, body: B) -> SocketAddr
where
    B: Body<Data = Bytes> + Clone + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    let upstream = service_fn(move |_: Request<Incoming>| {
        let response = over_http2(body.clone());
        async { Ok::<_, Infallible>(response) }
    });
    let layered = layer.layer(upstream);
    serve(service_fn(move |request| {
        let layered = layered.clone();
        async move {
            let response = layered.oneshot(request).await;
            settle().await;
            response
        }
    }))
    .await
}

/// Read to its end by the task, a body has a known size. If the server sent it as `Content-Length`, the error and the trailers were lost.
#[tokio::test]
async fn stream_that_was_read_to_its_end_has_no_known_size() {
    for (name, layer, records) in layers() {
        for is_broken in [true, false] {
            let body = Unsized {
                is_broken,
                has_sent: false,
            };
            let address = serve_late(layer.clone(), body).await;
            for protocol in BOTH {
                let answer = get(protocol, address).await;
                assert_eq!(answer.headers.get("content-length"), None, "{name}");
                let (text, ended) = answer.rest().await;
                assert_eq!(text, event("1"), "{name}");
                assert_eq!(ended.is_clean(), !is_broken, "{name}, {protocol:?}");
            }
        }
        if let Some(records) = records {
            for expected in [StreamOutcome::UpstreamError, StreamOutcome::Completed] {
                for _ in BOTH {
                    assert_eq!(records.next().await.outcome, expected, "{name}");
                }
            }
        }
    }
}

/// An event, and the end.
#[derive(Clone)]
struct Unsized {
    is_broken: bool,
    has_sent: bool,
}

impl Body for Unsized {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(match std::mem::replace(&mut self.has_sent, true) {
            false => Some(Ok(Frame::data(event("1")))),
            true if self.is_broken => Some(Err(Broken)),
            true => None,
        })
    }
}

/// A server does not poll a body that has ended. The layer cannot read this one, so that it passes untouched.
#[tokio::test(start_paused = true)]
async fn untouched_stream_that_was_read_to_its_end_is_complete() {
    for frames in [0, 1] {
        let (layer, records) = recorded(SseProxyLayer::default());
        let script = Script::of(vec![event("1"); frames]).then(Step::Later);
        let mut response = over_http2(script);
        let coding = "x-new".parse().unwrap();
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, coding);
        let response = respond(&layer, Request::new(()), response).await;
        let mut body = response.into_body();
        if frames > 0 {
            body.frame().await.unwrap().unwrap();
        }
        settle().await;
        while !body.is_end_stream() && body.frame().await.is_some() {}
        drop(body);
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    }
}
