//! A client that resumes from an event that is no longer kept, or never existed, gets a gap event.

use std::time::Duration;

use crate::support::{
    data, field,
    origin::{after, get, layer_with, numbers, recording_layer, settle},
    staged,
};
use http::{Request, StatusCode};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, StreamHead, Verdict},
    replay::{Gap, Replay, Retention},
};

/// Keeps no more of a stream than this, and asks the upstream again after a clean end.
fn bounded(bounds: Retention) -> Replay {
    Replay::default().retention(bounds).continue_after_end(true)
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_kept_is_told_before_anything_else() {
    let replay = Replay::default().retention(Retention::default().events(3));
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    let (_, id) = client.events(1).await;
    drop(client);
    feed.events(1..10).await;
    settle().await;
    let mut again = front.send(after(&id)).await;
    assert_eq!(
        again.event().await,
        "event: gap\ndata: {\"reason\":\"evicted\"}\n\n"
    );
    assert_eq!(again.events(3).await.0, numbers(7..10));
    // Who sent a body can read a status, and may take what is left for all.
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.status, 410);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_not_known_is_told_and_reset_and_never_sent_upstream() {
    let (front, mut origin) = staged(&recording_layer());
    let unknown = "0123456789abcdef0123456789abcdef.0.7";
    let told = front.send(after(unknown)).await;
    assert_eq!(
        (told.status, told.headers["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    let gap = "event: gap\nid: \ndata: {\"reason\":\"unknown\"}\n\n";
    assert_eq!(told.rest().await, (gap.into(), None));
    let post = Request::post("/").header("last-event-id", unknown);
    assert_eq!(front.send(post).await.status, 410);
    // Nor does one that means something elsewhere: where addresses name events.
    let zeros = "00000000000000000000000000000000.0.0";
    let told = front.send(after(zeros)).await;
    assert_eq!(told.rest().await, (gap.into(), None));
    assert!(
        origin.is_idle().await,
        "a stream that is paid for is not asked for again"
    );
    // What does not look like one of ours is the upstream's business.
    let (_, feed) = tokio::join!(front.send(after("up-7")), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-7"));
        call.stream()
    });
    drop(feed);
}

#[tokio::test(start_paused = true)]
async fn by_policy_a_gap_is_a_status() {
    let status = StatusCode::BAD_REQUEST;
    let replay = Replay::default().on_gap(Gap::Status(status));
    let (front, _origin) = staged(&layer_with(replay));
    let told = front
        .send(after("0123456789abcdef0123456789abcdef.0.7"))
        .await;
    assert_eq!(told.status, 400);
    assert!(told.rest().await.0.contains("unknown"));
}

#[tokio::test(start_paused = true)]
async fn who_names_a_lost_event_in_its_address_is_told_once_and_begins_anew() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    let address = "/?last=0123456789abcdef0123456789abcdef.0.7&a=1";
    let (told, ended) = front.send(get(address)).await.rest().await;
    assert!(told.starts_with("event: gap\n"));
    assert_eq!(ended, None);
    // An `EventSource` keeps its address.
    let id = field(&told, "id").expect("one that comes first");
    // Others make one of the last id that they have.
    let asked_by_it = get(&format!("/?last={id}&a=1"));
    tokio::join!(front.send(asked_by_it), async {
        let call = origin.next().await;
        assert_eq!(call.request.uri(), "/?a=1");
        call.stream().events(0..1).await;
    });
    let again = get(address).header("last-event-id", id);
    let (mut client, ()) = tokio::join!(front.send(again), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), None);
        assert_eq!(call.request.uri(), "/?a=1");
        let mut feed = call.stream();
        feed.events(0..1).await;
        feed.cut();
    });
    // And goes on from there.
    let (_, id) = client.events(1).await;
    let again = get(address).header("last-event-id", id);
    let (mut client, mut feed) = front.open(&mut origin, again).await;
    feed.events(1..2).await;
    assert_eq!(client.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_a_gap_with_nothing_behind_it_is_told_once() {
    let (front, mut origin) = staged(&layer_with(bounded(Retention::default().bytes(1000))));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    client.event().await;
    // There is no room for anything else now.
    feed.send(format!(": {}\n\n", "x".repeat(2000))).await;
    feed.end();
    client.rest().await;
    let mut told = front.send(after(&id)).await;
    let gap = told.event().await;
    assert_eq!(field(&gap, "event").as_deref(), Some("gap"));
    let id = field(&gap, "id").expect("a place behind the gap");
    assert_eq!(data(&told.rest().await.0), [""; 0]);
    let (again, ()) = tokio::join!(front.send(after(&id)), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-1"));
        let mut feed = call.stream();
        feed.events(2..3).await;
        feed.end();
    });
    assert_eq!(data(&again.rest().await.0), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_fallen_behind_is_not_told_that_there_is_no_more() {
    let pass = async |seconds| {
        settle().await;
        tokio::time::advance(Duration::from_secs(seconds)).await;
        settle().await;
    };
    let layer = layer_with(bounded(Retention::default().age(Duration::from_secs(2))))
        .intercept(|_: &StreamHead<'_>| Some(HoldForAWhile::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    pass(4).await;
    let (_, id) = client.events(1).await;
    feed.events(1..2).await;
    feed.end();
    client.rest().await;
    let waits = tokio::spawn({
        let (front, id) = (front.clone(), id.clone());
        async move { front.send(after(&id)).await }
    });
    let call = origin.next().await;
    // What was held is there now, somebody else reads it, and then it is too old.
    pass(4).await;
    let mut ahead = front.send(after(&id)).await;
    assert_eq!(ahead.events(1).await.0, ["1"]);
    pass(4).await;
    call.status(StatusCode::NO_CONTENT);
    let told = waits.await.unwrap();
    assert_eq!(told.status, 200);
    assert!(told.rest().await.1.is_some(), "cut, to be told of the gap");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_kept_of_the_one_that_follows_is_told() {
    let bounds = Retention::default().events(2);
    let replay = Replay::default()
        .continue_after_end(true)
        .grace_period(Duration::from_secs(1))
        .retention(bounds);
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    let (mut asked, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..6).await;
    asked.events(5).await;
    let mut again = front.send(after(&id)).await;
    assert!(again.event().await.starts_with("event: gap\n"));
    assert_eq!(again.events(2).await.0, numbers(4..6));
}

/// Holds each event back for three seconds.
#[derive(Default)]
struct HoldForAWhile(Vec<Event>, Option<tokio::time::Instant>);

impl Interceptor for HoldForAWhile {
    fn event(&mut self, event: Event) -> Verdict {
        self.1 = Some(tokio::time::Instant::now() + Duration::from_secs(3));
        self.0.push(event);
        Verdict::Hold
    }

    fn deadline(&self) -> Option<tokio::time::Instant> {
        self.1
    }

    fn timeout(&mut self, _: tokio::time::Instant) -> Verdict {
        self.1 = None;
        Verdict::Release(self.0.drain(..).map(Into::into).collect())
    }
}
