//! A service that is asked again and again whether a client may still read its stream.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, StatusCode};
use tokio::time::sleep;
use tower::{BoxError, service_fn};
use tower_sse_proxy::{
    ErrorKind, SseProxyLayer, Watchdog,
    observe::{StreamOutcome, WatchdogKind},
    replay::Replay,
};

use crate::support::{
    origin::{get, settle},
    recorded, staged,
};

const EVERY: Duration = Duration::from_secs(60);

fn layers() -> [SseProxyLayer; 2] {
    [
        SseProxyLayer::default(),
        SseProxyLayer::default().replay(Replay::default()),
    ]
}

/// The actions of the service, one for each check; the last one is repeated.
#[derive(Clone, Copy, Debug)]
enum Does {
    Status(u16),
    Fail,
    Panic,
    Hang,
}

/// The service, and the owners that it was asked about.
fn service(does: &'static [Does]) -> (Watchdog, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    let service = service_fn(move |request: Request<()>| {
        let owner = request.headers().get("authorization");
        let owner = owner.map_or("", |owner| owner.to_str().unwrap());
        let mut seen = seen.lock().unwrap();
        let does = does[seen.len().min(does.len() - 1)];
        seen.push(owner.to_owned());
        async move {
            match does {
                Does::Status(status) => Ok(StatusCode::from_u16(status).unwrap()),
                Does::Fail => Err(BoxError::from("the session store is down")),
                Does::Panic => panic!("on purpose"),
                Does::Hang => pending().await,
            }
        }
    });
    (Watchdog::default().recheck(service, EVERY), asked)
}

#[tokio::test(start_paused = true)]
async fn stream_ends_as_revoked_when_its_client_may_no_longer_read_it() {
    use Does::*;
    // Which check ends the stream.
    let corpus: [(&'static [Does], usize); 8] = [
        (&[Status(401)], 1),
        (&[Status(200), Status(204), Status(403)], 3),
        (&[Status(200), Status(302)], 2),
        (&[Status(200), Status(503)], 2),
        // The service fails: three times in a row.
        (&[Fail], 3),
        (&[Panic], 3),
        (&[Hang], 3),
        (
            &[
                Fail,
                Hang,
                Status(200),
                Fail,
                Panic,
                Status(200),
                Status(101),
            ],
            9,
        ),
    ];
    for layer in layers() {
        for (does, number) in corpus {
            let (watchdog, asked) = service(does);
            let (layer, records) = recorded(layer.clone().watchdog(watchdog));
            let streams = layer.streams();
            let (front, mut origin) = staged(&layer);
            let request = get("/").header("authorization", "alice");
            let (client, mut feed) = front.open(&mut origin, request).await;
            let record = records.next_on_paused_clock().await;
            assert_eq!(record.outcome, StreamOutcome::Revoked, "{does:?}");
            assert_eq!(*asked.lock().unwrap(), vec!["alice"; number], "{does:?}");
            let number = u32::try_from(number).unwrap();
            let (least, most) = (
                EVERY * number * 9 / 10,
                EVERY * number + Duration::from_secs(11),
            );
            let took = record.duration;
            assert!(took >= least && took <= most, "{does:?}: {took:?}");
            assert_eq!(records.fired(), [WatchdogKind::Recheck]);
            assert!(feed.is_dropped().await);
            assert_eq!(client.rest().await.1, Some(ErrorKind::Aborted));
            assert_eq!(streams.count(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_continues_while_its_client_may_read_it_and_is_not_checked_after_its_end() {
    for layer in layers() {
        let (watchdog, asked) = service(&[Does::Status(200)]);
        let (layer, records) = recorded(layer.watchdog(watchdog));
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        sleep(EVERY * 100).await;
        let number = asked.lock().unwrap().len();
        assert!((100..=112).contains(&number), "{number}");
        feed.end();
        assert_eq!(client.rest().await.1, None);
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
        sleep(EVERY * 100).await;
        assert_eq!(asked.lock().unwrap().len(), number);
    }
}

/// A service that hangs for one stream holds up no other check.
#[tokio::test(start_paused = true)]
async fn slow_check_does_not_hold_up_the_watchdogs_of_other_streams() {
    for layer in layers() {
        let (watchdog, _) = service(&[Does::Hang]);
        let watchdog = watchdog.content_gap(Duration::from_secs(62));
        let (layer, records) = recorded(layer.watchdog(watchdog));
        let (front, mut origin) = staged(&layer);
        let (_client, mut feed) = front.open(&mut origin, get("/1")).await;
        let (client, mut other) = front.open(&mut origin, get("/2")).await;
        let reading = tokio::spawn(client.rest_on_paused_clock());
        other.send("data: 1\n\n").await;
        settle().await;
        let record = records.next_on_paused_clock().await;
        assert_eq!(record.outcome, StreamOutcome::Stalled);
        assert!(record.duration <= Duration::from_secs(63));
        reading.await.unwrap();
        assert!(!feed.is_dropped().await);
    }
}

#[tokio::test(start_paused = true)]
async fn check_that_observes_reports_and_ends_nothing() {
    for layer in layers() {
        let (watchdog, _) = service(&[Does::Status(200), Does::Status(401)]);
        let (layer, records) = recorded(layer.watchdog(watchdog.observe_only(true)));
        let (front, mut origin) = staged(&layer);
        let (client, mut feed) = front.open(&mut origin, get("/")).await;
        sleep(EVERY * 2 + Duration::from_secs(1)).await;
        assert_eq!(records.fired(), [WatchdogKind::Recheck]);
        feed.end();
        assert_eq!(client.rest().await.1, None);
        assert_eq!(records.only().await.outcome, StreamOutcome::Completed);
    }
}
