//! The memory that the layer counts is the memory that is allocated.

use std::time::Duration;

use crate::support::{
    Client, FedBody, Front, Origin, event_stream,
    origin::{get, layer_with, settle},
    staged,
};
use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::channel::Sender;
use tower::BoxError;
use tower_sse_proxy::{SseProxyLayer, replay::Replay};

type Feed = Sender<Bytes, BoxError>;

/// A layer that stays the same for as long as a test takes.
fn layer() -> SseProxyLayer {
    layer_with(Replay::default().grace_period(Duration::from_secs(3600)))
}

/// Opens a stream whose response head was read into a buffer of 8 KiB, as hyper does it.
async fn open(front: &Front, origin: &mut Origin) -> (Client, Feed) {
    let answered = async {
        let call = origin.next().await;
        let (feed, body) = FedBody::new(16);
        let mut response = event_stream(body);
        let read = Bytes::from(vec![b'v'; 8 << 10]);
        for name in ["x-request-id", "server", "vary"] {
            let value = HeaderValue::from_maybe_shared(read.slice(10..30)).unwrap();
            response.headers_mut().insert(name, value);
        }
        call.answer(response);
        feed
    };
    let request = Request::post("/messages?of=a-session");
    tokio::join!(front.send(request), answered)
}

/// What a stream takes on average, in bytes: allocated, and counted by the layer.
fn each(layer: &SseProxyLayer, one: impl AsyncFn(Client, Feed)) -> (i64, i64) {
    const STREAMS: i64 = 14;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let (front, mut origin) = staged(layer);
    let mut run = |streams| {
        runtime.block_on(async {
            for _ in 0..streams {
                let (client, feed) = open(&front, &mut origin).await;
                one(client, feed).await;
            }
            settle().await;
        });
    };
    // What there is for all streams, and does not grow between here and the end.
    run(42);
    let before = layer.retained_bytes() as i64;
    let allocated = measure(|| run(STREAMS)).bytes_current;
    let counted = layer.retained_bytes() as i64 - before;
    (allocated / STREAMS, counted / STREAMS)
}

/// Of one that has sent so many events, `together` of them at a time.
async fn send(client: &mut Client, feed: &mut Feed, events: usize, size: usize, together: usize) {
    let event = format!("data: {}\n\n", "x".repeat(size - 8));
    for _ in 0..events / together {
        let chunk = event.repeat(together).into();
        feed.send_data(chunk).await.unwrap();
        client.events(together).await;
    }
}

/// Of events with their ids.
fn bytes(events: usize, size: usize) -> i64 {
    (events * (size + "id: .0.000\n".len() + 32)) as i64
}

#[test]
fn a_small_answer_that_has_ended_takes_2_kib_beside_its_bytes() {
    let layer = layer();
    let (allocated, counted) = each(&layer, async |mut client, mut feed| {
        send(&mut client, &mut feed, 1, 200, 1).await;
        drop(feed);
        client.rest().await;
    });
    let beside = allocated - 200 - 40;
    assert!(beside <= 2048, "{allocated} allocated, {counted} counted");
    assert!(
        counted >= allocated && allocated * 3 / 2 >= counted,
        "{allocated} allocated, {counted} counted"
    );
}

#[test]
fn what_an_ended_stream_counts_for_is_what_it_takes() {
    for (events, size, together) in [
        (120, 30, 1),
        (200, 30, 100),
        (100, 250, 1),
        (100, 250, 50),
        (1000, 250, 250),
        (8, 64 << 10, 1),
    ] {
        let layer = layer();
        let (allocated, counted) = each(&layer, async |mut client, mut feed| {
            send(&mut client, &mut feed, events, size, together).await;
            drop(feed);
            client.rest().await;
        });
        let shape = format!("{events} of {size} B, {together} together");
        assert!(
            allocated * 10 <= counted * 11 && counted * 10 <= allocated * 12,
            "{shape}: {allocated} allocated, {counted} counted"
        );
        let beside = allocated - bytes(events, size);
        // One that is written by itself and is large has a buffer of its own.
        let each = if size > 2048 { 250 } else { 45 };
        assert!(
            beside < 2048 + each * events as i64,
            "{shape}: {beside} beside the bytes"
        );
    }
}

#[test]
fn a_stream_that_goes_on_without_a_client_takes_no_more_than_it_counts_for() {
    for (events, size, together) in [(1, 200, 1), (120, 30, 1), (100, 250, 1), (1000, 250, 250)] {
        let layer = layer();
        let feeds = std::cell::RefCell::new(Vec::with_capacity(300));
        let (allocated, counted) = each(&layer, async |mut client, mut feed| {
            send(&mut client, &mut feed, events, size, together).await;
            feeds.borrow_mut().push(feed);
        });
        // It counts with a connection to an upstream, and with what that may have read at once.
        let connection = (16 << 10) + (size * together) as i64;
        let own = counted - connection;
        let shape = format!("{events} of {size} B, {together} together");
        assert!(
            allocated <= own * 5 / 4 && own <= allocated * 2,
            "{shape}: {allocated} allocated, {own} counted"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_client_ends_where_there_is_no_room_for_it() {
    let layer = layer()
        .max_replay_bytes(300_000)
        .max_replay_bytes_per_owner(300_000);
    let (front, mut origin) = staged(&layer);
    let mut feeds = Vec::new();
    for _ in 0..100 {
        let (mut client, mut feed) = open(&front, &mut origin).await;
        send(&mut client, &mut feed, 1, 200, 1).await;
        drop(client);
        settle().await;
        assert!(layer.retained_bytes() <= 300_000);
        feeds.push(feed);
    }
    let mut goes_on = Vec::new();
    for feed in &mut feeds {
        goes_on.push(feed.send_data(":\n\n".into()).await.is_ok());
    }
    assert!(goes_on.is_sorted(), "the oldest end first: {goes_on:?}");
    let number = goes_on.iter().filter(|&&goes_on| goes_on).count();
    assert!((10..20).contains(&number), "{number} go on");
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_a_client_goes_on_where_there_is_no_room_for_it() {
    let (front, mut origin) = staged(&layer().max_replay_bytes(0));
    let mut streams = Vec::new();
    for _ in 0..20 {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..1).await;
        client.events(1).await;
        settle().await;
        streams.push((client, feed));
    }
    for (client, feed) in &mut streams {
        feed.events(1..2).await;
        assert_eq!(client.events(1).await.0, ["1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_events_of_an_ordinary_answer_are_all_kept() {
    let (front, mut origin) = staged(&layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3000).await;
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    let (_, first) = client.events(1).await;
    client.rest().await;
    let resumed = front.send(crate::support::origin::after(&first)).await;
    let events = crate::support::data(&resumed.rest().await.0);
    assert_eq!((events.len(), &*events[0]), (3000, "1"));
}
