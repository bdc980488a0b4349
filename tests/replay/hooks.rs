//! The observer hooks for resumed streams, gaps and reconnects: when the layer calls them, how often, and for which stream.

use std::sync::{Arc, Mutex};

use http::StatusCode;
use tower_sse_proxy::{
    SseProxyLayer,
    observe::{StreamInfo, StreamObserver},
    reconnect::Backoff,
    replay::{Replay, Retention, StreamId},
};

use crate::support::{
    origin::{after, get, layer_with},
    staged,
};

#[derive(Clone, Debug, PartialEq)]
enum Call {
    Resumed(StreamId),
    Gap(Option<StreamId>, &'static str),
    /// The stream, the result, and the number of events that its clients have got.
    Reconnecting(StreamId, Option<bool>, u64),
}

#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    fn push(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }

    /// Returns the calls since the last `take`.
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl StreamObserver for Calls {
    fn resumed(&self, stream: &StreamInfo) {
        self.push(Call::Resumed(stream.id));
    }

    fn gap(&self, stream: Option<&StreamInfo>, reason: &'static str) {
        self.push(Call::Gap(stream.map(|stream| stream.id), reason));
    }

    fn reconnecting(&self, stream: &StreamInfo, succeeded: Option<bool>) {
        self.push(Call::Reconnecting(stream.id, succeeded, stream.events));
    }
}

#[tokio::test(start_paused = true)]
async fn resume_and_gap_are_reported_once_with_their_stream() {
    let calls = Calls::default();
    let replay = Replay::default().retention(Retention::default().events(2));
    let layer = layer_with(replay).observe(calls.clone());
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let stream = client.stream.unwrap();
    let (other, _other_feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, first) = client.events(1).await;
    let (_, second) = client.events(1).await;
    assert_eq!(calls.take(), []);

    let mut resumed = front.send(after(&first)).await;
    assert_eq!(resumed.events(1).await.0, ["1"]);
    assert_eq!(calls.take(), [Call::Resumed(stream)]);

    feed.events(2..6).await;
    let (_, last) = client.events(4).await;
    drop(resumed);
    assert!(
        front
            .send(after(&first))
            .await
            .event()
            .await
            .starts_with("event: gap\n")
    );
    assert_eq!(calls.take(), [Call::Gap(Some(stream), "evicted")]);
    let unknown = second.replace(&second[..8], "00000000");
    assert!(
        front
            .send(after(&unknown))
            .await
            .event()
            .await
            .starts_with("event: gap\n")
    );
    assert_eq!(calls.take(), [Call::Gap(None, "unknown")]);

    // The stream breaks, and the upstream cannot continue it, because its last event has no id.
    feed.send("id\ndata: without an id\n\n").await;
    let (_, lost) = client.events(1).await;
    feed.cut();
    client.rest().await;
    assert_ne!(lost, last);
    assert!(
        front
            .send(after(&lost))
            .await
            .event()
            .await
            .starts_with("event: gap\n")
    );
    assert_eq!(calls.take(), [Call::Gap(Some(stream), "failed")]);
    // The hook names the first stream, not the other one.
    assert_ne!(other.stream.unwrap(), stream);
}

#[tokio::test(start_paused = true)]
async fn reconnect_is_reported_when_it_begins_and_with_its_result() {
    let layers = [SseProxyLayer::default(), layer_with(Replay::default())];
    for layer in layers {
        let calls = Calls::default();
        let layer = layer.reconnect(Backoff::default()).observe(calls.clone());
        let streams = layer.streams();
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        let stream = streams.list()[0].id;
        feed.events(0..2).await;
        feed.cut();
        let upstream = async {
            let failed = origin.next().await;
            assert_eq!(calls.take(), [Call::Reconnecting(stream, None, 2)]);
            failed.status(StatusCode::BAD_GATEWAY);
            let again = origin.next().await;
            let told = [Some(false), None].map(|result| Call::Reconnecting(stream, result, 2));
            assert_eq!(calls.take(), told);
            let mut feed = again.stream();
            feed.events(2..3).await;
            feed.end();
        };
        let ((text, failed), ()) = tokio::join!(client.rest_on_paused_clock(), upstream);
        assert_eq!((text.matches("data: ").count(), failed), (3, None));
        assert_eq!(calls.take(), [Call::Reconnecting(stream, Some(true), 2)]);
    }
}
