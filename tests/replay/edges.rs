//! What replay does at its bounds, and where several things happen at once.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Fed, Note, Origin, data, field,
    origin::{after, get, kept, numbers, settle, with},
    staged, witness,
};
use http::{Request, Response, StatusCode};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    intercept::{End, Head, Interceptor, Verdict},
    replay::{Bounds, Replay},
    session::Sessions,
};

fn bounded(bounds: Bounds) -> SseProxyLayer {
    with(Replay::default().bounds(bounds))
}

#[tokio::test(start_paused = true)]
async fn times_that_no_clock_can_tell_are_no_limits() {
    let replay = Replay::default()
        .linger(Duration::MAX)
        .lifetime(Duration::MAX)
        .bounds(Bounds::default().age(Duration::MAX));
    let (front, mut origin) = staged(&with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    feed.events(2..3).await;
    let mut again = front.send(after(&id)).await;
    assert_eq!(again.events(2).await.0, numbers(1..3));
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    assert_eq!(again.rest().await.1, None);
    tokio::time::advance(Duration::from_secs(1_000_000)).await;
    settle().await;
    let again = front.send(after(&id)).await.rest().await;
    assert_eq!(data(&again.0), ["1", "2", "[DONE]"]);
}

#[tokio::test(start_paused = true)]
async fn two_clients_that_come_back_to_the_end_at_once_are_in_one_stream() {
    let (witness, mut notes) = witness();
    let (front, mut origin) = staged(&kept().intercept(witness));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let send = || {
        let (front, request) = (front.clone(), after(&id));
        tokio::spawn(async move { front.send(request).await })
    };
    let sent = (send(), send());
    let calls = (origin.next().await, origin.next().await);
    let mut feed = calls.0.stream();
    let mut one = sent.0.await.unwrap();
    let mut unused = calls.1.stream();
    let mut other = sent.1.await.unwrap();
    assert!(unused.is_let_go().await);
    feed.events(1..3).await;
    let seen = one.events(2).await;
    assert_eq!(seen.0, numbers(1..3));
    assert_eq!(other.events(2).await, seen, "the same ids");
    feed.send("data: [DONE]\n\n").await;
    feed.end();
    assert_eq!(data(&one.rest().await.0), ["[DONE]"]);
    assert_eq!(data(&other.rest().await.0), ["[DONE]"]);
    assert_eq!(notes.ends().await, [Note::Complete]);
}

#[tokio::test(start_paused = true)]
async fn what_interceptors_held_is_not_lost_where_a_stream_is_given_up_while_its_upstream_is_asked()
{
    let lifetime = Duration::from_secs(10);
    let layer = with(Replay::default().lifetime(lifetime))
        .intercept(|_: &Head<'_>| Some(HoldLast::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (seen, id) = client.events(2).await;
    assert_eq!(seen, numbers(0..2));
    client.rest().await;
    let (again, mut feed) = tokio::join!(front.send(after(&id)), async {
        let call = origin.next().await;
        assert_eq!(call.header("last-event-id"), Some("up-2"));
        tokio::time::advance(lifetime).await;
        settle().await;
        call.stream()
    });
    assert!(feed.is_let_go().await);
    let (text, _) = again.rest().await;
    assert_eq!(data(&text), ["2"]);
}

/// Holds one event back.
#[derive(Default)]
struct HoldLast(Option<Event>);

impl Interceptor for HoldLast {
    fn event(&mut self, event: Event) -> Verdict {
        self.0.replace(event).into()
    }

    fn end(&mut self, _: End<'_>) -> Verdict {
        self.0.take().into()
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_keeps_up_loses_nothing_however_little_is_kept() {
    for bounds in [
        Bounds::default().events(0),
        Bounds::default().events(1),
        Bounds::default().bytes(0),
        Bounds::default().bytes(1000),
        Bounds::default().bytes(10_000),
        Bounds::default().events(0).bytes(0),
    ] {
        let (front, mut origin) = staged(&bounded(bounds));
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let all: String = (0..600)
            .map(|number| format!("data: {number}\n\n"))
            .collect();
        feed.send(all).await;
        settle().await;
        let (seen, _) = client.events(600).await;
        assert_eq!(seen, numbers(0..600), "{bounds:?}");
        feed.end();
        assert_eq!(client.rest().await, (String::new(), None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_longer_than_anything_is_kept_loses_nothing() {
    for age in [Duration::ZERO, Duration::from_secs(10)] {
        let (front, mut origin) = staged(&bounded(Bounds::default().age(age)));
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..5).await;
        settle().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        settle().await;
        let (seen, first) = client.events(1).await;
        assert_eq!(seen, numbers(0..1));
        feed.events(5..10).await;
        feed.send("data: [DONE]\n\n").await;
        feed.end();
        tokio::time::advance(Duration::from_secs(60)).await;
        settle().await;
        assert_eq!(client.events(9).await.0, numbers(1..10));
        assert_eq!(data(&client.rest().await.0), ["[DONE]"]);
        // Read by everybody, it goes.
        tokio::time::advance(Duration::from_secs(20)).await;
        settle().await;
        let told = front.send(after(&first)).await.rest().await;
        assert!(told.0.contains("unknown"), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_event_does_not_drive_out_what_is_unread() {
    let (front, mut origin) = staged(&bounded(Bounds::default().bytes(10_000)));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    for size in [4_000, 9_000, 50_000, 10, 9_000] {
        feed.send(format!("data: {}\n\n", "x".repeat(size))).await;
        settle().await;
    }
    let (seen, _) = client.events(5).await;
    let sizes: Vec<_> = seen.iter().map(String::len).collect();
    assert_eq!(sizes, [4_000, 9_000, 50_000, 10, 9_000]);
}

#[tokio::test(start_paused = true)]
async fn what_interceptors_let_go_of_together_is_lost_by_nobody_who_reads() {
    for flush in [true, false] {
        let layer =
            bounded(Bounds::default().events(100)).intercept(|_: &Head<'_>| Some(Hold::default()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        for number in 0..500 {
            feed.send(format!("data: {number}\n\n")).await;
            settle().await;
        }
        if flush {
            feed.send("data: flush\n\n").await;
        } else {
            feed.end();
        }
        settle().await;
        assert_eq!(client.events(500).await.0, numbers(0..500), "{flush}");
    }
}

/// Holds all until the end, or until it is told to let go.
#[derive(Default)]
struct Hold(Vec<Event>);

impl Interceptor for Hold {
    fn event(&mut self, event: Event) -> Verdict {
        let flush = event.data() == "flush";
        self.0.push(event);
        if flush {
            return Verdict::Replace(self.0.drain(..).map(Into::into).collect());
        }
        Verdict::Drop
    }

    fn end(&mut self, _: End<'_>) -> Verdict {
        Verdict::Replace(self.0.drain(..).map(Into::into).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_session_that_has_ended_take_no_room_from_others() {
    let sessions = Sessions::header("x-session").end_by_delete_and_404();
    let layer = kept().sessions(sessions).replay_bytes(50_000);
    let (front, mut origin) = staged(&layer);
    let started = async |origin: &mut Origin| {
        let (mut client, mut feed) = tokio::join!(front.send(get("/")), async {
            let call = origin.next().await;
            let (feed, body) = Fed::new(16);
            let mut response = crate::support::event_stream(body);
            response
                .headers_mut()
                .insert("x-session", "up".parse().unwrap());
            call.answer(response);
            feed
        });
        let text = format!("data: 0\n\ndata: {}\n\n", "x".repeat(20_000));
        feed.send_data(text.into()).await.unwrap();
        let session = client.headers["x-session"].to_str().unwrap().to_owned();
        let id = client.events(1).await.1;
        client.events(1).await;
        (session, id, feed)
    };
    for _ in 0..5 {
        let (session, _, feed) = started(&mut origin).await;
        drop(feed);
        settle().await;
        let delete = Request::delete("/").header("x-session", session);
        tokio::join!(front.send(delete), async {
            let (_, body) = Fed::new(1);
            origin.next().await.answer(Response::new(body));
        });
        settle().await;
    }
    let (session, id, _feed) = started(&mut origin).await;
    settle().await;
    let request = after(&id).header("x-session", session);
    let (seen, _) = front.send(request).await.events(1).await;
    assert_eq!(seen[0].len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn clients_that_have_read_all_take_no_room() {
    let (front, mut origin) = staged(&kept().replay_bytes(25_000));
    let mut streams = Vec::new();
    for _ in 0..10 {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.send("data: 0\n\n").await;
        let (_, first) = client.events(1).await;
        feed.send(format!("data: {}\n\n", "x".repeat(10_000))).await;
        client.events(1).await;
        streams.push((first, client, feed));
    }
    let mut whole = 0;
    for (first, ..) in &streams {
        let event = front.send(after(first)).await.event().await;
        whole += u32::from(field(&event, "event").is_none());
    }
    assert_eq!(whole, 2);
}

#[tokio::test(start_paused = true)]
async fn many_small_streams_that_are_over_take_no_more_than_few_large_ones() {
    let (front, mut origin) = staged(&kept().replay_bytes(100_000));
    let mut ids = Vec::new();
    for _ in 0..200 {
        let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
        feed.send("data: 0\n\ndata: [DONE]\n\n").await;
        feed.end();
        ids.push(client.events(1).await.1);
        client.rest().await;
    }
    let mut known = Vec::new();
    for id in &ids {
        let again = Request::post("/").header("last-event-id", id);
        known.push(front.send(again).await.status == 200);
    }
    let number = known.iter().filter(|known| **known).count();
    // A finished stream takes some 5 kB, however little it has sent.
    assert!((10..30).contains(&number), "{number}");
    assert!(known.is_sorted(), "the oldest go first");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_which_there_is_no_room_for_anything_is_known_no_more() {
    let (front, mut origin) = staged(&kept().replay_bytes(10_000));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("data: 0\n\ndata: 1\n\ndata: [DONE]\n\n").await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send(format!("data: {}\n\n", "x".repeat(10_000))).await;
    client.events(1).await;
    settle().await;
    // A client that was told of nothing but a gap would come back with the same id.
    let told = front.send(after(&id)).await.rest().await.0;
    assert!(
        told.contains("id: \n") && told.contains("unknown"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_an_interceptor_ended_is_over_for_who_comes_back() {
    let layer = kept().intercept(|event: Event| match &*event.data() {
        "1" => Verdict::End(vec![event.into()]),
        _ => event.into(),
    });
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    let (_, id) = client.events(2).await;
    assert_eq!(client.rest().await, (String::new(), None));
    assert_eq!(front.send(after(&id)).await.status, 204);
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.rest().await, (String::new(), None));
    assert!(
        origin.is_idle().await,
        "nobody asks for what comes after it"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_go_on_with_the_stream_is_the_clients_and_the_stream_waits() {
    let (front, mut origin) = staged(&kept());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    client.rest().await;
    // What an `EventSource` may be told. (At a 503 it would give up.)
    for (status, told) in [(200, 200), (204, 204), (404, 404), (503, 200)] {
        let (answer, ()) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-0"));
            call.status(StatusCode::from_u16(status).unwrap());
        });
        assert_eq!(answer.status, told);
    }
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(1..2).await;
    let (seen, next) = again.events(1).await;
    assert_eq!(seen, ["1"]);
    assert_eq!(next.split('.').next(), id.split('.').next());
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_begins_in_the_middle_begins_with_no_byte_order_mark() {
    let (front, mut origin) = staged(&kept());
    let (mut client, mut feed) = front.open(&mut origin, Request::post("/")).await;
    let text = "\u{feff}data: 0\r\rdata: 1\r\n\r\n\u{feff}: text\n\n: c\ndata: [DONE]\n\n";
    for byte in text.as_bytes().chunks(1) {
        feed.send(byte.to_vec()).await;
        settle().await;
    }
    feed.end();
    let (first, cut) = (client.event().await, client.rest().await);
    let whole = first + &cut.0;
    let lines = whole.split(['\r', '\n']);
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("id: ")).collect();
    let expected = "data: 0||data: 1|||:||\u{feff}: text||: c|data: [DONE]||";
    assert_eq!(lines.join("|"), expected);
    for id in whole
        .split(['\r', '\n'])
        .filter_map(|line| line.strip_prefix("id: "))
    {
        let again = Request::post("/").header("last-event-id", id);
        let (replayed, cut) = front.send(again).await.rest().await;
        assert_eq!(cut, None);
        assert!(whole.ends_with(&replayed) && !replayed.starts_with('\u{feff}'));
    }
}

#[tokio::test(start_paused = true)]
async fn no_task_outlives_what_it_is_for() {
    let running = Arc::new(());
    let count = Arc::clone(&running);
    let replay = Replay::default().executor(move |task| {
        let running = Arc::clone(&count);
        tokio::spawn(async move {
            task.await;
            drop(running);
        });
    });
    let (front, mut origin) = staged(&with(replay));
    let tasks = || Arc::strong_count(&running) - 2;
    for end in [
        "done",
        "suspended",
        "cut",
        "cut without ids",
        "left",
        "stalled",
    ] {
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        match end {
            "cut without ids" => feed.send("data: 0\n\ndata: 1\n\n").await,
            _ => feed.events(0..2).await,
        }
        let (_, id) = client.events(1).await;
        match end {
            "done" => feed.send("data: [DONE]\n\n").await,
            "cut" | "cut without ids" => feed.cut(),
            "suspended" => feed.end(),
            "left" => {}
            _ => {
                let again = front.send(after(&id)).await;
                // Two who do not read, and an upstream that has more than there is room for.
                let feeding = tokio::spawn(async move { feed.events(2..5000).await });
                settle().await;
                assert!(!feeding.is_finished());
                drop((client, again));
                settle().await;
                assert!(feeding.is_finished());
                assert_eq!(tasks(), 1, "{end}");
                tokio::time::advance(Duration::from_secs(400)).await;
                settle().await;
                assert_eq!(tasks(), 0, "{end}");
                continue;
            }
        }
        settle().await;
        drop(client);
        settle().await;
        assert_eq!(tasks(), 1, "{end}");
        drop(feed);
        // As long as it lingers, and then as long as it is kept.
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(301)).await;
            settle().await;
        }
        assert_eq!(tasks(), 0, "{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_kept_one_reader_gets_all_in_order() {
    for seed in 0..100 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let bounds = Bounds::default()
            .events(chance.usize(..20))
            .bytes(chance.usize(..5000))
            .age(Duration::from_millis(chance.u64(..3000)));
        let layer = bounded(bounds).intercept(|_: &Head<'_>| Some(Hold::default()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        let mut own = chance.fork();
        let feeding = tokio::spawn(async move {
            let mut number = 0;
            while number < 200 {
                let together = own.u32(1..30);
                let events = number..number + together;
                number += together;
                let filler = "x".repeat(own.usize(..30).pow(2));
                let event = |number| format!(": {filler}\ndata: {number}\n\n");
                feed.send(events.map(event).collect::<String>()).await;
                if own.u32(..5) == 0 {
                    feed.send("data: flush\n\n").await;
                }
                if own.bool() {
                    settle().await;
                }
                tokio::time::advance(Duration::from_millis(own.u64(..500))).await;
            }
            feed.send("data: [DONE]\n\n").await;
            number
        });
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "[DONE]") {
            if chance.u32(..4) == 0 {
                settle().await;
            }
            seen.extend(client.events(1).await.0);
        }
        assert_eq!(client.rest().await, (String::new(), None), "seed {seed}");
        seen.pop();
        seen.retain(|data| data != "flush");
        let expected = numbers(0..feeding.await.unwrap());
        assert_eq!(seen, expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_after_it_was_done_is_done() {
    let (front, mut origin) = staged(&kept());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.send("data: [DONE]\n\n").await;
    let (_, id) = client.events(2).await;
    feed.cut();
    assert_eq!(client.rest().await, (String::new(), None));
    assert_eq!(front.send(after(&id)).await.status, 204);
    let post = Request::post("/").header("last-event-id", &id);
    assert_eq!(front.send(post).await.rest().await, (String::new(), None));
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_a_gap_with_nothing_behind_it_is_told_once() {
    let (front, mut origin) = staged(&bounded(Bounds::default().bytes(1000)));
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
async fn what_interceptors_hold_is_sent_when_the_upstream_has_no_more() {
    for breaks in [false, true] {
        let layer = kept().intercept(|_: &Head<'_>| Some(HoldLast::default()));
        let (front, mut origin) = staged(&layer);
        let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
        feed.events(0..3).await;
        let (seen, id) = client.events(2).await;
        assert_eq!(seen, numbers(0..2));
        if breaks {
            feed.cut()
        } else {
            feed.end()
        }
        assert_eq!(client.rest().await.1.is_some(), breaks);
        let (mut again, ()) = tokio::join!(front.send(after(&id)), async {
            let call = origin.next().await;
            assert_eq!(call.header("last-event-id"), Some("up-2"));
            call.status(StatusCode::NO_CONTENT);
        });
        assert_eq!(again.status, 200, "who is told 204 does not come back");
        let (seen, id) = again.events(1).await;
        assert_eq!((seen, again.rest().await.1), (numbers(2..3), None));
        assert_eq!(front.send(after(&id)).await.status, 204);
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_sends_again_is_not_sent_on_where_its_stream_was_given_up() {
    let (front, mut origin) = staged(&with(Replay::default().linger(Duration::from_secs(1))));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(3).await;
    client.rest().await;
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    let (mut again, mut feed) = front.open(&mut origin, after(&id)).await;
    feed.events(0..5).await;
    assert_eq!(again.events(2).await.0, numbers(3..5));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_keeps_nothing_is_at_rest_where_others_take_more_than_there_is() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let replay = Replay::default().executor(move |mut task| {
        let counted = Arc::clone(&counted);
        tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            task.as_mut().poll(cx)
        }));
    });
    let (front, mut origin) = staged(&with(replay).replay_bytes(0));
    let (_waits, _silent) = front.open(&mut origin, get("/")).await;
    let (_client, mut feed) = front.open(&mut origin, get("/")).await;
    // It has not been read, and so is kept.
    feed.events(0..1).await;
    settle().await;
    let before = polls.load(Ordering::Relaxed);
    settle().await;
    assert_eq!(polls.load(Ordering::Relaxed), before);
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

#[tokio::test(start_paused = true)]
async fn who_has_fallen_behind_is_not_told_that_there_is_no_more() {
    let pass = async |seconds| {
        settle().await;
        tokio::time::advance(Duration::from_secs(seconds)).await;
        settle().await;
    };
    let layer = bounded(Bounds::default().age(Duration::from_secs(2)))
        .intercept(|_: &Head<'_>| Some(HoldForAWhile::default()));
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
async fn who_comes_back_to_a_stream_that_was_given_up_is_in_the_one_that_follows_on_it() {
    /// Holds the last event, and forgets it at the end.
    struct Forgets(Option<Event>);
    impl Interceptor for Forgets {
        fn event(&mut self, event: Event) -> Verdict {
            self.0.replace(event).into()
        }
    }
    let replay = Replay::default().linger(Duration::from_secs(1));
    let layer = with(replay).intercept(|_: &Head<'_>| Some(Forgets(None)));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.cut();
    let (_, id) = client.events(2).await;
    drop(client);
    tokio::time::advance(Duration::from_secs(2)).await;
    settle().await;
    // It is gone on with by a stream of its own, of which nothing is let go of yet.
    let (asked, mut feed) = front.open(&mut origin, after(&id)).await;
    drop(asked);
    let mut again = front.send(after(&id)).await;
    assert!(origin.is_idle().await, "the upstream was asked");
    feed.events(2..5).await;
    let (seen, next) = again.events(2).await;
    assert_eq!(seen, numbers(2..4));
    // As often as need be, with the old id or with a new one.
    assert_eq!(
        front.send(after(&id)).await.events(2).await.0,
        numbers(2..4)
    );
    feed.events(5..6).await;
    assert_eq!(front.send(after(&next)).await.events(1).await.0, ["4"]);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_kept_of_the_one_that_follows_is_told() {
    let bounds = Bounds::default().events(2);
    let replay = Replay::default()
        .linger(Duration::from_secs(1))
        .bounds(bounds);
    let (front, mut origin) = staged(&with(replay));
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

#[tokio::test(start_paused = true)]
async fn who_comes_back_while_a_stream_is_being_given_up_waits_for_what_was_held() {
    /// Holds the last event, and takes its time for it at the end.
    #[derive(Default)]
    struct Slow(Option<Event>);
    impl Interceptor for Slow {
        fn event(&mut self, event: Event) -> Verdict {
            self.0.replace(event).into()
        }
        fn end(&mut self, _: End<'_>) -> Verdict {
            let last = self.0.take();
            Verdict::defer(async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(last)
            })
        }
    }
    let replay = Replay::default().linger(Duration::from_secs(1));
    let layer = with(replay).intercept(|_: &Head<'_>| Some(Slow::default()));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..3).await;
    feed.end();
    let (_, id) = client.events(2).await;
    drop(client);
    tokio::time::advance(Duration::from_millis(1100)).await;
    settle().await;
    let mut again = front.send(after(&id)).await;
    assert!(origin.is_idle().await, "there is more to come");
    let (seen, last) = again.events(1).await;
    assert_eq!((seen, again.rest().await.1), (numbers(2..3), None));
    let (mut next, mut feed) = front.open(&mut origin, after(&last)).await;
    feed.events(3..5).await;
    assert_eq!(next.events(1).await.0, ["3"]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_a_second_time_is_not_refused_by_an_upstream_that_has_gone_on_for_the_first()
{
    let (front, mut origin) = staged(&kept());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..1).await;
    feed.end();
    let (_, id) = client.events(1).await;
    drop(client);
    settle().await;
    let (mut one, mut two, mut feed) =
        tokio::join!(front.send(after(&id)), front.send(after(&id)), async {
            let (one, two) = (origin.next().await, origin.next().await);
            let feed = one.stream();
            settle().await;
            two.status(StatusCode::CONFLICT);
            feed
        });
    assert_eq!((one.status, two.status), (200, 200));
    feed.events(1..2).await;
    assert_eq!(one.events(1).await, two.events(1).await);
}
