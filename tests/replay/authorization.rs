//! `Replay::authorize`: which clients may resume or join an existing stream.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    origin::{after, get, layer_with, settle},
    staged,
};
use futures_util::future::BoxFuture;
use http::{Request, StatusCode};
use tokio::time::Instant;
use tower::{BoxError, service_fn};
use tower_sse_proxy::replay::Replay;

type Answer = BoxFuture<'static, Result<StatusCode, BoxError>>;

/// Sets an authorization service that does what the request header `x-do` says. Returns the number of its calls too.
fn authorizing(replay: Replay) -> (Replay, Arc<AtomicUsize>) {
    let calls = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&calls);
    let replay = replay.authorize(service_fn(move |request: Request<()>| -> Answer {
        count.fetch_add(1, Ordering::Relaxed);
        match request
            .headers()
            .get("x-do")
            .map(|value| value.to_str().unwrap())
        {
            Some("hang") => Box::pin(pending()),
            Some("panic at once") => panic!("planned"),
            Some("panic later") => Box::pin(async { panic!("planned") }),
            Some("fail") => Box::pin(async { Err("planned".into()) }),
            Some(status) => {
                let status = status.parse();
                Box::pin(async move { Ok(status?) })
            }
            None => Box::pin(async { Ok(StatusCode::OK) }),
        }
    }));
    (replay, calls)
}

const REJECTIONS: [(&str, u16); 7] = [
    ("hang", 503),
    ("panic at once", 503),
    ("panic later", 503),
    ("fail", 503),
    ("401", 401),
    ("404", 404),
    // 1xx is not a final status, so the layer answers 503.
    ("100", 503),
];

#[tokio::test(start_paused = true)]
async fn service_that_hangs_or_panics_rejects_only_that_client() {
    let (replay, _) = authorizing(Replay::default());
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    for (action, status) in REJECTIONS {
        let before = Instant::now();
        let rejected = front.send(after(&id).header("x-do", action)).await;
        assert_eq!(rejected.status, status, "{action}");
        assert!(before.elapsed() <= Duration::from_secs(2), "{action}");
    }
    assert_eq!(front.send(after(&id)).await.events(1).await.0, ["1"]);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn authorize_timeout_limits_the_wait_for_the_service() {
    let (replay, _) = authorizing(Replay::default());
    let (front, mut origin) = staged(&layer_with(
        replay.authorize_timeout(Duration::from_millis(10)),
    ));
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let before = Instant::now();
    let rejected = front.send(after(&id).header("x-do", "hang")).await;
    assert_eq!(rejected.status, 503);
    assert!(before.elapsed() < Duration::from_millis(20));
}

fn sharing() -> Replay {
    Replay::default()
        .share_by(|request| Some(request.uri.path().to_owned()))
        .grace_period(Duration::from_secs(60))
}

#[tokio::test(start_paused = true)]
async fn joining_client_is_authorized_but_first_client_is_not() {
    let (replay, calls) = authorizing(sharing());
    let (front, mut origin) = staged(&layer_with(replay));
    let (mut first, mut feed) = front
        .open(&mut origin, get("/a").header("x-do", "401"))
        .await;
    assert_eq!(
        first.status, 200,
        "the upstream authorizes the first client"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    for (action, status) in REJECTIONS {
        let rejected = front.send(get("/a").header("x-do", action)).await;
        assert_eq!(rejected.status, status, "{action}");
    }
    let mut joined = front.send(get("/a")).await;
    assert_eq!(joined.status, 200);
    assert_eq!(calls.load(Ordering::Relaxed), REJECTIONS.len() + 1);
    feed.events(0..1).await;
    assert_eq!(joined.events(1).await, first.events(1).await);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn client_that_waits_for_the_response_head_is_authorized() {
    let (replay, calls) = authorizing(sharing());
    let (front, mut origin) = staged(&layer_with(replay));
    let send = |action: &'static str| {
        let front = front.clone();
        tokio::spawn(async move { front.send(get("/a").header("x-do", action)).await })
    };
    let first = send("401");
    let call = origin.next().await;
    let rejected = send("403");
    assert_eq!(rejected.await.unwrap().status, 403);
    let joined = send("200");
    settle().await;
    assert!(origin.is_idle().await);
    let mut feed = call.stream();
    feed.events(0..1).await;
    let (mut first, mut joined) = (first.await.unwrap(), joined.await.unwrap());
    assert_eq!(joined.events(1).await, first.events(1).await);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn rejected_client_does_not_extend_the_grace_period() {
    let (replay, _) = authorizing(sharing());
    let (front, mut origin) = staged(&layer_with(replay));
    let (first, mut feed) = front.open(&mut origin, get("/a")).await;
    drop(first);
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(19)).await;
        let rejected = front.send(get("/a").header("x-do", "401")).await;
        assert_eq!(rejected.status, 401);
    }
    assert!(!feed.is_dropped().await);
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(feed.is_dropped().await, "61 s without a client");
}
