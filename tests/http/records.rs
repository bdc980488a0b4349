//! Each stream has exactly one record, whatever happens to it.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, channel::Channel};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer, Streams,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
    observe::{StreamInfo, StreamObserver, StreamOutcome, StreamRecord},
    replay::Replay,
    streams::{CloseReason, Select},
};

use crate::support::{
    Script, Step, event_stream,
    origin::{get, settle},
    pass, recorded, respond, rest, staged,
};

fn asking(path: &str) -> http::request::Builder {
    get(path).header("accept", "text/event-stream")
}

/// A layer of each kind: attached streams, and recorded ones.
fn layers() -> [SseProxyLayer; 2] {
    let replay = Replay::default().grace_period(Duration::ZERO);
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().replay(replay),
    ]
}

#[tokio::test]
async fn request_that_is_dropped_before_the_head_has_no_record() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let service = service_fn(|_: Request<()>| {
            pending::<Result<Response<Channel<Bytes, BoxError>>, Infallible>>()
        });
        let mut response = layer.layer(service).oneshot(asking("/").body(()).unwrap());
        assert!((&mut response).now_or_never().is_none());
        drop(response);
        assert!(records.take().await.is_empty());
        assert_eq!((records.opened(), streams.count()), (0, 0));
    }
}

#[tokio::test]
async fn failed_service_has_a_record_only_if_the_request_asks_for_a_stream() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let service = service_fn(|_: Request<()>| async {
            Err::<Response<Channel<Bytes, BoxError>>, _>("refused")
        });
        let proxy = layer.layer(service);
        assert!(proxy.clone().oneshot(Request::new(())).await.is_err());
        assert!(records.take().await.is_empty());
        assert!(proxy.oneshot(asking("/").body(()).unwrap()).await.is_err());
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::UpstreamError);
        assert_eq!((record.status, record.time_to_head), (None, None));
    }
}

#[tokio::test]
async fn other_responses_have_no_record() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let (front, mut origin) = staged(&layer);
        for status in [200, 404, 500] {
            let call = async {
                origin
                    .next()
                    .await
                    .status(StatusCode::from_u16(status).unwrap());
            };
            tokio::join!(front.send(asking("/")), call);
        }
        let head = asking("/").method("HEAD");
        let call = async { origin.next().await.stream() };
        tokio::join!(front.send(head), call);
        assert!(records.take().await.is_empty());
    }
}

#[tokio::test]
async fn body_that_is_dropped_unpolled_has_one_record() {
    for layer in layers() {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        assert_eq!(streams.count(), 1);
        drop(client);
        assert!(feed.is_dropped().await);
        assert_eq!(records.only().await.outcome, StreamOutcome::ClientLeft);
        assert_eq!(streams.count(), 0);
    }
}

#[test]
fn shutdown_of_the_runtime_makes_the_records_of_open_streams() {
    for (layer, outcome) in layers()
        .into_iter()
        .zip([StreamOutcome::ClientLeft, StreamOutcome::Drained])
    {
        let (layer, records) = recorded(layer);
        let streams = layer.streams();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let feed = runtime.block_on(async {
            let (front, mut origin) = staged(&layer);
            let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
            feed.send("data: 1\n\n").await;
            client.event().await;
            // The body belongs to a task of the server.
            tokio::spawn(client.rest());
            settle().await;
            feed
        });
        assert_eq!(streams.count(), 1);
        drop(runtime);
        let mut now = records.now();
        assert_eq!(now.len(), 1, "{outcome}");
        assert_eq!(now.remove(0).outcome, outcome);
        assert_eq!(streams.count(), 0);
        drop(feed);
    }
}

/// Where an interceptor panics.
#[derive(Clone, Copy, PartialEq)]
enum Panics {
    Open,
    Event,
    End,
}

struct Panicking(Panics);

impl Interceptor for Panicking {
    fn event(&mut self, event: Event) -> Verdict {
        assert!(self.0 != Panics::Event, "on purpose");
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        assert!(self.0 != Panics::End, "on purpose");
        Verdict::Drop
    }
}

#[tokio::test(start_paused = true)]
async fn interceptor_that_panics_makes_one_record() {
    for panics in [Panics::Open, Panics::Event, Panics::End] {
        for layer in layers() {
            let open = move |_: &StreamHead<'_>| {
                assert!(panics != Panics::Open, "on purpose");
                Some(Panicking(panics))
            };
            let (layer, records) = recorded(layer.intercept(open));
            let streams = layer.streams();
            let mut body = pass(&layer, Script::of(["data: 1\n\n"])).await;
            while let Some(Ok(_)) = body.frame().await {}
            drop(body);
            let record = records.only().await;
            assert_eq!(record.outcome, StreamOutcome::InterceptorFailed);
            assert_eq!(streams.count(), 0);
        }
    }
}

/// Panics in each hook.
struct Clumsy;

impl StreamObserver for Clumsy {
    fn opened(&self, _: &StreamInfo) {
        panic!("on purpose");
    }

    fn first_event(&self, _: &StreamInfo) {
        panic!("on purpose");
    }

    fn closed(&self, _: &StreamRecord) {
        panic!("on purpose");
    }
}

#[tokio::test]
async fn observer_that_panics_disturbs_neither_the_stream_nor_other_observers() {
    for layer in layers() {
        let (layer, records) = recorded(layer.observe(Clumsy));
        let body = pass(&layer, Script::of(["data: 1\n\n", "data: 2\n\n"])).await;
        let (text, failed) = rest(body).await;
        assert!(text.contains("data: 1\n") && text.contains("data: 2\n"));
        assert_eq!(failed, None);
        let record = records.only().await;
        assert_eq!(record.outcome, StreamOutcome::Completed);
        assert_eq!((record.events_in, record.events_out), (2, 2));
    }
}

/// Closes all streams of the layer in a hook.
struct Closing {
    streams: Arc<Mutex<Option<Streams>>>,
    at_end: bool,
}

impl Closing {
    fn close(&self) {
        if let Some(streams) = &*self.streams.lock().unwrap() {
            streams.close(Select::All, CloseReason::Cancelled);
        }
    }
}

impl Interceptor for Closing {
    fn event(&mut self, event: Event) -> Verdict {
        if !self.at_end {
            self.close();
        }
        event.into()
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        if self.at_end {
            self.close();
        }
        Verdict::Drop
    }
}

#[tokio::test(start_paused = true)]
async fn interceptor_may_close_its_own_stream() {
    for at_end in [false, true] {
        for layer in layers() {
            let streams = Arc::<Mutex<Option<Streams>>>::default();
            let for_each = Arc::clone(&streams);
            let open = move |_: &StreamHead<'_>| {
                Some(Closing {
                    streams: Arc::clone(&for_each),
                    at_end,
                })
            };
            let (layer, records) = recorded(layer.intercept(open));
            *streams.lock().unwrap() = Some(layer.streams());
            let (front, mut origin) = staged(&layer);
            let (client, mut feed) = front.open(&mut origin, get("/")).await;
            feed.send("data: 1\n\n").await;
            if at_end {
                feed.end();
            }
            let (_, failed) = client.rest().await;
            assert_eq!(failed, Some(ErrorKind::Aborted), "{at_end}");
            if !at_end {
                assert!(feed.is_dropped().await);
            }
            assert_eq!(records.only().await.outcome, StreamOutcome::Cancelled);
            assert_eq!(layer.streams().count(), 0);
        }
    }
}

/// The observer closes the stream as soon as it is opened.
#[tokio::test(start_paused = true)]
async fn stream_that_is_closed_while_it_opens_ends() {
    struct CloseAtOnce(Mutex<Option<Streams>>);
    impl StreamObserver for CloseAtOnce {
        fn opened(&self, stream: &StreamInfo) {
            let streams = self.0.lock().unwrap();
            let streams = streams.as_ref().unwrap();
            assert_eq!(streams.close(stream.id, CloseReason::Revoked), 1);
        }
    }
    for layer in layers() {
        let observer = Arc::new(CloseAtOnce(Mutex::default()));
        struct Shared(Arc<CloseAtOnce>);
        impl StreamObserver for Shared {
            fn opened(&self, stream: &StreamInfo) {
                self.0.opened(stream);
            }
        }
        let (layer, records) = recorded(layer.observe(Shared(Arc::clone(&observer))));
        *observer.0.lock().unwrap() = Some(layer.streams());
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        assert!(feed.is_dropped().await);
        assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
        assert_eq!(records.only().await.outcome, StreamOutcome::Revoked);
        // Breaks the cycle of layer and observer.
        *observer.0.lock().unwrap() = None;
    }
}

/// Ends a stream, and closes it after some steps of the scheduler. Returns the outcome.
async fn race(layer: SseProxyLayer, steps: u32) -> StreamOutcome {
    let (layer, records) = recorded(layer);
    let streams = layer.streams();
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: 1\n\n").await;
    let reading = tokio::spawn(client.rest());
    let closing = tokio::spawn({
        let streams = streams.clone();
        async move {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
            streams.close(Select::All, CloseReason::Cancelled)
        }
    });
    feed.end();
    let (closed, (_, failed)) = (closing.await.unwrap(), reading.await.unwrap());
    let record = records.next().await;
    // The record is true for the client, too.
    match record.outcome {
        // A recorded stream can be closed after its end, which drops its events.
        StreamOutcome::Completed => assert!(failed.is_none() || closed == 1),
        StreamOutcome::Cancelled => {
            assert_eq!((closed, failed), (1, Some(ErrorKind::Aborted)));
        }
        other => panic!("{other}"),
    }
    assert!(records.now().is_empty());
    assert_eq!(streams.count(), 0);
    record.outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn close_that_races_with_the_end_makes_one_true_record() {
    let make: [fn() -> SseProxyLayer; 2] = [SseProxyLayer::default, || {
        SseProxyLayer::default().replay(Replay::default().grace_period(Duration::ZERO))
    }];
    for layer in make {
        let rounds = (0..2000).map(|round| tokio::spawn(race(layer(), round % 20)));
        let mut cancelled = 0;
        for outcome in futures_util::future::join_all(rounds).await {
            cancelled += u32::from(outcome.unwrap() == StreamOutcome::Cancelled);
        }
        assert!((1..2000).contains(&cancelled), "{cancelled}");
    }
}

#[tokio::test(start_paused = true)]
async fn counts_and_times_are_those_of_the_stream() {
    for layer in layers() {
        let drop_pings = |event: Event| (event.data() != "drop").then_some(event);
        let (layer, records) = recorded(layer.intercept(drop_pings).route("/a"));
        let (front, mut origin) = staged(&layer);
        let second = Duration::from_secs(1);
        let answer = async {
            let call = origin.next().await;
            tokio::time::sleep(second).await;
            call.stream()
        };
        let (client, mut feed) = tokio::join!(front.send(asking("/")), answer);
        let reading = tokio::spawn(client.rest_on_paused_clock());
        settle().await;
        tokio::time::sleep(second).await;
        feed.send(": comment\n\nevent: ping\ndata: drop\n\n").await;
        tokio::time::sleep(second).await;
        feed.send("data: 1\n\n").await;
        tokio::time::sleep(3 * second).await;
        feed.send("data: 2\n\n").await;
        feed.end();
        let (text, failed) = reading.await.unwrap();
        assert_eq!(failed, None);
        let record = records.only().await;
        assert_eq!(record.route.as_deref(), Some("/a"));
        assert_eq!(record.time_to_head, Some(second));
        assert_eq!(record.time_to_first_event, Some(2 * second));
        assert_eq!(record.time_to_first_content, Some(3 * second));
        assert_eq!(record.longest_gap, 3 * second);
        assert_eq!(record.duration, 6 * second);
        assert_eq!((record.events_in, record.events_out), (3, 2));
        let sent = ": comment\n\nevent: ping\ndata: drop\n\ndata: 1\n\ndata: 2\n\n".len();
        assert_eq!(record.bytes_in, sent as u64);
        assert_eq!(record.bytes_out, text.len() as u64);
    }
}

/// A stream that the layer cannot read, and need not read.
#[tokio::test(start_paused = true)]
async fn unread_stream_has_a_record_and_can_be_closed() {
    let response = |script| {
        let mut response = event_stream(script);
        let coding = "unknown".parse().unwrap();
        response.headers_mut().insert("content-encoding", coding);
        response
    };
    let (layer, records) = recorded(SseProxyLayer::default());
    let streams = layer.streams();
    for (script, bytes, outcome) in [
        (Script::of(["data: 1\n\n"]), 9, StreamOutcome::Completed),
        (Script::new([]), 0, StreamOutcome::Completed),
        (
            Script::of(["data: 1\n\n"]).then(Step::Error),
            9,
            StreamOutcome::UpstreamError,
        ),
    ] {
        let response = respond(&layer, Request::new(()), response(script)).await;
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        let record = records.only().await;
        assert_eq!(record.outcome, outcome);
        assert_eq!((record.bytes_in, record.bytes_out), (bytes, bytes));
    }
    for closes in [true, false] {
        let script = Script::of(["data: 1\n\n"]).then(Step::Never);
        let taken = script.taken();
        let response = respond(&layer, Request::new(()), response(script)).await;
        let mut body = response.into_body();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(streams.list()[0].clients, 1);
        if closes {
            assert_eq!(streams.close(Select::All, CloseReason::Revoked), 1);
            assert!(taken.is_dropped());
            assert_eq!(records.only().await.outcome, StreamOutcome::Revoked);
            let error = body.frame().await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Aborted);
            assert!(body.frame().await.is_none());
        } else {
            drop(body);
            assert!(taken.is_dropped());
            assert_eq!(records.only().await.outcome, StreamOutcome::ClientLeft);
        }
        assert_eq!(streams.count(), 0);
    }
    let script = Script::of(["data: 1\n\n"]).then(Step::Never);
    let taken = script.taken();
    let response = respond(&layer, Request::new(()), response(script)).await;
    streams.drain(Duration::from_secs(1)).await;
    assert!(taken.is_dropped());
    assert_eq!(records.only().await.outcome, StreamOutcome::Drained);
    drop(response);
}
