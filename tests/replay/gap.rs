//! A client that resumes from an evicted or unknown event gets a gap event.

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

/// Sets this retention, and resumes at the upstream after a clean end.
fn bounded(bounds: Retention) -> Replay {
    Replay::default().retention(bounds).continue_after_end(true)
}

#[tokio::test(start_paused = true)]
async fn gap_event_precedes_the_retained_events() {
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
    // Other methods get a status: their clients can read it, and could take the retained events for the complete stream.
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.status, 410);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn unknown_id_gets_a_gap_event_that_resets_it_and_never_goes_upstream() {
    let (front, mut origin) = staged(&recording_layer());
    let unknown = "0123456789abcdef0123456789abcdef.0.7";
    let answer = front.send(after(unknown)).await;
    assert_eq!(
        (
            answer.status,
            answer.headers["content-type"].to_str().unwrap()
        ),
        (200, "text/event-stream")
    );
    let gap = "event: gap\nid: \ndata: {\"reason\":\"unknown\"}\n\n";
    assert_eq!(answer.rest().await, (gap.into(), None));
    let post = Request::post("/").header("last-event-id", unknown);
    assert_eq!(front.send(post).await.status, 410);
    // The id with all zeros, which the gap event gives to clients of `query_param`, is unknown without that setting.
    let zeros = "00000000000000000000000000000000.0.0";
    let answer = front.send(after(zeros)).await;
    assert_eq!(answer.rest().await, (gap.into(), None));
    assert!(
        origin.is_idle().await,
        "a request for an expensive stream is not repeated"
    );
    // An id in another form goes to the upstream.
    let (_, feed) = tokio::join!(front.send(after("up-7")), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-7"));
        call.stream()
    });
    drop(feed);
}

#[tokio::test(start_paused = true)]
async fn on_gap_can_set_a_status() {
    let status = StatusCode::BAD_REQUEST;
    let replay = Replay::default().on_gap(Gap::Status(status));
    let (front, _origin) = staged(&layer_with(replay));
    let answer = front
        .send(after("0123456789abcdef0123456789abcdef.0.7"))
        .await;
    assert_eq!(answer.status, 400);
    assert!(answer.rest().await.0.contains("unknown"));
}

#[tokio::test(start_paused = true)]
async fn lost_event_in_the_query_gets_one_gap_event_and_then_a_new_stream() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    let address = "/?last=0123456789abcdef0123456789abcdef.0.7&a=1";
    let (answer, ended) = front.send(get(address)).await.rest().await;
    assert!(answer.starts_with("event: gap\n"));
    assert_eq!(ended, None);
    // An `EventSource` never changes its URL, and adds the id as a header.
    let id = field(&answer, "id").expect("the gap event has an id");
    // Other clients put their last id into the query.
    let with_id_in_query = get(&format!("/?last={id}&a=1"));
    tokio::join!(front.send(with_id_in_query), async {
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
    // The client resumes from the new stream's id.
    let (_, id) = client.events(1).await;
    let again = get(address).header("last-event-id", id);
    let (mut client, mut feed) = front.open(&mut origin, again).await;
    feed.events(1..2).await;
    assert_eq!(client.events(1).await.0, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn reader_at_the_end_of_an_evicted_log_gets_one_gap_event() {
    let (front, mut origin) = staged(&layer_with(bounded(Retention::default().bytes(1000))));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    client.event().await;
    // This comment is larger than the retention, so it evicts all events.
    feed.send(format!(": {}\n\n", "x".repeat(2000))).await;
    feed.end();
    client.rest().await;
    let mut answer = front.send(after(&id)).await;
    let gap = answer.event().await;
    assert_eq!(field(&gap, "event").as_deref(), Some("gap"));
    let id = field(&gap, "id").expect("the gap event has an id");
    assert_eq!(data(&answer.rest().await.0), [""; 0]);
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
async fn client_that_fell_below_the_gap_does_not_get_204() {
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
    let waiting = tokio::spawn({
        let (front, id) = (front.clone(), id.clone());
        async move { front.send(after(&id)).await }
    });
    let call = origin.next().await;
    // The interceptor releases the held event, another client reads it, and its age evicts it.
    pass(4).await;
    let mut other = front.send(after(&id)).await;
    assert_eq!(other.events(1).await.0, ["1"]);
    pass(4).await;
    call.status(StatusCode::NO_CONTENT);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(
        answer.rest().await.1.is_some(),
        "cut, so that the next resume gets the gap event"
    );
}

#[tokio::test(start_paused = true)]
async fn evicted_event_of_the_successor_yields_a_gap_event() {
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
    let (mut resumed, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..6).await;
    resumed.events(5).await;
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

    fn deadline(&self) -> Option<std::time::Instant> {
        self.1.map(tokio::time::Instant::into_std)
    }

    fn timeout(&mut self, _: std::time::Instant) -> Verdict {
        self.1 = None;
        Verdict::Release(self.0.drain(..).map(Into::into).collect())
    }
}
