//! The memory that the layer counts agrees with the memory that is allocated.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

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
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
    replay::Replay,
};

type Feed = Sender<Bytes, BoxError>;

/// A layer whose streams do not end by their grace period during a test.
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

/// Runs `one` for several new streams. Returns the average of the bytes of each: allocated, and counted by the layer.
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
    // Fills the structures that all streams share, so that they do not grow later.
    run(42);
    let before = layer.retained_bytes() as i64;
    let allocated = measure(|| run(STREAMS)).bytes_current;
    let counted = layer.retained_bytes() as i64 - before;
    (allocated / STREAMS, counted / STREAMS)
}

/// Sends `events` events of `size` bytes, `together` of them in each chunk, and has the client read them.
async fn send(client: &mut Client, feed: &mut Feed, events: usize, size: usize, together: usize) {
    let event = format!("data: {}\n\n", "x".repeat(size - 8));
    for _ in 0..events / together {
        let chunk = event.repeat(together).into();
        feed.send_data(chunk).await.unwrap();
        client.events(together).await;
    }
}

/// The size of the events with their ids.
fn bytes(events: usize, size: usize) -> i64 {
    (events * (size + "id: .0.000\n".len() + 32)) as i64
}

#[test]
fn small_ended_stream_takes_2_kib_more_than_its_events() {
    let layer = layer();
    let (allocated, counted) = each(&layer, async |mut client, mut feed| {
        send(&mut client, &mut feed, 1, 200, 1).await;
        drop(feed);
        client.rest().await;
    });
    let overhead = allocated - 200 - 40;
    assert!(overhead <= 2048, "{allocated} allocated, {counted} counted");
    assert!(
        counted >= allocated && allocated * 3 / 2 >= counted,
        "{allocated} allocated, {counted} counted"
    );
}

#[test]
fn counted_bytes_of_an_ended_stream_are_near_its_allocated_bytes() {
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
        let overhead = allocated - bytes(events, size);
        // A large event that is written alone has its own buffer.
        let each = if size > 2048 { 250 } else { 45 };
        assert!(
            overhead < 2048 + each * events as i64,
            "{shape}: {overhead} above the bytes of the events"
        );
    }
}

#[test]
fn detached_stream_allocates_no_more_than_it_counts() {
    for (events, size, together) in [(1, 200, 1), (120, 30, 1), (100, 250, 1), (1000, 250, 250)] {
        let layer = layer();
        let feeds = std::cell::RefCell::new(Vec::with_capacity(300));
        let (allocated, counted) = each(&layer, async |mut client, mut feed| {
            send(&mut client, &mut feed, events, size, together).await;
            feeds.borrow_mut().push(feed);
        });
        // The count includes a connection to the upstream, and its read buffer for the largest chunk.
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
async fn oldest_detached_streams_end_above_max_replay_bytes() {
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
    let mut open = Vec::new();
    for feed in &mut feeds {
        open.push(feed.send_data(":\n\n".into()).await.is_ok());
    }
    assert!(open.is_sorted(), "the oldest streams end first: {open:?}");
    let number = open.iter().filter(|&&open| open).count();
    assert!((10..20).contains(&number), "{number} streams are open");
}

#[tokio::test(start_paused = true)]
async fn stream_with_a_client_continues_above_max_replay_bytes() {
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

/// The writer waits for the client before each write.
#[tokio::test(start_paused = true)]
async fn events_that_arrive_together_above_max_replay_bytes_all_reach_the_client() {
    let layer = layer().max_replay_bytes(0);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let event = format!("data: {}\n\n", "x".repeat(50_000));
    for _ in 0..3 {
        feed.send(event.repeat(20)).await;
        settle().await;
        let read = tokio::time::timeout(Duration::from_secs(60), client.events(20)).await;
        let (events, _) = read.expect("the client gets all events");
        assert!(events.iter().all(|event| event.len() == 50_000));
    }
}

#[tokio::test(start_paused = true)]
async fn writer_waits_for_the_client_above_max_replay_bytes() {
    let layer = layer().max_replay_bytes(0);
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    let event = format!("data: {}\n\n", "x".repeat(50_000));
    let fed = tokio::spawn(async move {
        for _ in 0..20 {
            feed.send(event.clone()).await;
        }
        feed
    });
    settle().await;
    // The retention would hold all events.
    let held = layer.retained_bytes();
    assert!((50_000..400_000).contains(&held), "{held}");
    client.events(20).await;
    drop(fed.await);
}

#[tokio::test(start_paused = true)]
async fn default_retention_holds_all_events_of_an_ordinary_stream() {
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

/// What a recorded stream counts beside its events: request target, response header and ids of the upstream.
#[tokio::test(start_paused = true)]
async fn long_targets_headers_and_ids_of_the_upstream_are_counted() {
    const LONG: usize = 10_000;
    let counted = async |target: usize, header: usize, id: usize| {
        let name = http::HeaderName::from_static("x-model");
        let replay = Replay::default().response_header(name);
        let layer = layer_with(replay);
        let (front, mut origin) = staged(&layer);
        let request = get(&format!("/{}", "t".repeat(target)));
        let answer = async {
            let (feed, body) = FedBody::new(16);
            let mut response = event_stream(body);
            let value = HeaderValue::from_str(&"h".repeat(header)).unwrap();
            response.headers_mut().insert("x-model", value);
            origin.next().await.answer(response);
            feed
        };
        let (client, mut feed) = tokio::join!(front.send(request), answer);
        let event = format!("id: {}\ndata: 1\n\n", "i".repeat(1 + id));
        feed.send_data(event.into()).await.unwrap();
        drop(feed);
        client.rest().await;
        layer.retained_bytes()
    };
    let least = counted(0, 0, 0).await;
    for (target, header, id) in [(LONG, 0, 0), (0, LONG, 0), (0, 0, LONG)] {
        let more = counted(target, header, id).await - least;
        assert!(
            (LONG * 9 / 10..5 * LONG).contains(&more),
            "{more} for {target}, {header} and {id}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unfinished_event_of_a_detached_stream_is_counted() {
    let layer = layer();
    let (front, mut origin) = staged(&layer);
    let (client, mut feed) = front.open(&mut origin, get("/")).await;
    drop(client);
    for _ in 0..10 {
        feed.send("data: 1\n\n").await;
    }
    settle().await;
    let before = layer.retained_bytes();
    for _ in 0..10 {
        feed.send(format!("data: {}\n", "x".repeat(10_000))).await;
        settle().await;
    }
    let more = layer.retained_bytes() - before;
    assert!((100_000..250_000).contains(&more), "{more}");
}

#[test]
fn detached_stream_counts_the_largest_chunk_of_its_upstream() {
    let counted = |together| {
        let layer = layer();
        let feeds = std::cell::RefCell::new(Vec::with_capacity(300));
        let (_, counted) = each(&layer, async |mut client, mut feed| {
            send(&mut client, &mut feed, 250, 250, together).await;
            feeds.borrow_mut().push(feed);
        });
        counted
    };
    let (one_chunk, chunk_each) = (counted(250), counted(1));
    assert!(
        one_chunk - chunk_each > 48 << 10,
        "{one_chunk}, {chunk_each}"
    );
}

/// Holds the event 1, and never releases it.
struct HoldsForEver;

impl Interceptor for HoldsForEver {
    fn event(&mut self, event: Event) -> Verdict {
        if event.data() == "1" {
            Verdict::Hold
        } else {
            event.into()
        }
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::defer(std::future::pending::<Result<Verdict, BoxError>>())
    }
}

/// The stream has no client and nothing to resume, its upstream has ended, and an interceptor still holds an event.
#[tokio::test(start_paused = true)]
async fn writer_of_an_evicted_stream_does_not_evict_itself_again_and_again() {
    let polls = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&polls);
    let replay = Replay::default()
        .continue_after_end(true)
        .executor(move |mut task| {
            let count = Arc::clone(&count);
            // Ends a task that is polled without end, which would hang the test.
            tokio::spawn(poll_fn(move |cx| match count.fetch_add(1, Relaxed) {
                0..10_000 => task.as_mut().poll(cx),
                _ => Poll::Ready(()),
            }));
        });
    let layer = layer_with(replay)
        .max_replay_bytes(60_000)
        .max_replay_bytes_per_owner(60_000)
        .intercept(|_: &StreamHead<'_>| Some(HoldsForEver));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    client.events(1).await;
    feed.end();
    settle().await;
    drop(client);
    // The grace period ends, and the interceptor has 10 seconds to release the event.
    tokio::time::sleep(Duration::from_secs(61)).await;
    // Another stream needs the memory of this one. Its client does not read.
    let (_other, mut other_feed) = front.open(&mut origin, get("/other")).await;
    let event = format!("data: {}\n\n", "x".repeat(60_000));
    other_feed.send(event).await;
    settle().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let polls = polls.load(Relaxed);
    assert!(polls < 100, "{polls} polls");
}
