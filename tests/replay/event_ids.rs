//! Event ids: the layer assigns its own, can preserve the ids of the upstream, and never sends its own upstream.

use crate::support::{
    data, field,
    origin::{after, get, layer_with, recording_layer, settle},
    staged,
};
use http::{Method, Request};
use tower_sse_proxy::replay::{Replay, Retention};

#[tokio::test(start_paused = true)]
async fn every_event_has_an_id_of_the_layer_and_none_of_the_upstream() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.send("id: mine\r\ndata: a\r\n\r\n: c\n").await;
    feed.send("event: e\ndata: b\nid: 1\nid: 2\n\n").await;
    feed.send("id: bare\n\n").await;
    feed.send("data: c\r\rdata: d\n\n").await;
    let a = client.event().await;
    let id = field(&a, "id").unwrap();
    let stream = id.split('.').next().unwrap();
    assert_eq!(a, format!("id: {id}\ndata: a\n\n"));
    // The comment before this event has no id: the client always reads both.
    let b = client.event().await;
    assert_eq!(b, format!(": c\nevent: e\ndata: b\nid: {stream}.0.2\n\n"));
    assert_eq!(client.event().await, format!("id: {stream}.0.3\n\n"));
    let last = format!("id: {stream}.0.4\ndata: c\r\rid: {stream}.0.5\ndata: d\n\n");
    assert_eq!(client.event().await, last);
    assert_eq!(stream.len(), 32);
}

#[tokio::test(start_paused = true)]
async fn reject_foreign_ids_forwards_no_other_id() {
    let replay = Replay::default()
        .reject_foreign_ids(true)
        .query_param("last");
    let (front, mut origin) = staged(&layer_with(replay.clone()));
    let id = "0123456789abcdef0123456789abcdef.0.7";
    let mangled = [
        "up-7",
        "7",
        &id.to_uppercase(),
        &id[..34],
        "0123456789abcdef0123456789abcdef.0.07",
        "0123456789abcdef0123456789abcdef.0.18446744073709551616",
        ",",
        "\u{fc}",
    ];
    for other in mangled {
        let (text, cut) = front.send(after(other)).await.rest().await;
        let gap = "event: gap\nid: \ndata: {\"reason\":\"unknown\"}\n\n";
        assert_eq!((&*text, cut), (gap, None), "{other}");
        let post = Request::post("/").header("last-event-id", other);
        assert_eq!(front.send(post).await.status, 410, "{other}");
    }
    let answer = front.send(get("/?last=7")).await;
    assert!(answer.rest().await.0.contains("unknown"));
    let two = after("7").header("last-event-id", "8");
    assert!(front.send(two).await.rest().await.0.contains("unknown"));
    let verbatim = layer_with(replay.clone().preserve_upstream_ids(true)).owner(|_| Some("me"));
    let (known, mut other_origin) = staged(&verbatim);
    let answer = known.send(after("up-7")).await;
    assert!(answer.rest().await.0.contains("unknown"));
    assert!(origin.is_idle().await && other_origin.is_idle().await);

    for without_id in [get("/"), after(""), get("/?last="), get("/?other=7")] {
        let (client, _feed) = front.open(&mut origin, without_id).await;
        assert_eq!(client.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn r40_id_of_the_layer_never_goes_upstream() {
    let replay = Replay::default().query_param("lastEventId");
    let (front, mut origin) = staged(&layer_with(replay));
    let id = "0123456789abcdef0123456789abcdef.0.7";
    let send = |method, header: Option<&str>, query: &str| {
        let mut request = Request::builder().method(method).uri(format!("/?{query}"));
        if let Some(header) = header {
            request = request.header("last-event-id", header);
        }
        let front = front.clone();
        tokio::spawn(async move { front.send(request).await.status })
    };
    let query = format!("a=1&lastEventId={id}&b=2");
    let second = format!("lastEventId=7&lastEventId={id}");
    for method in [Method::HEAD, Method::POST, Method::PUT, Method::DELETE] {
        for (header, query) in [
            (Some(id), ""),
            (Some(id), &*query),
            (Some("7"), ""),
            (None, &query),
            (None, &second),
        ] {
            let sent = send(method.clone(), header, query);
            assert_eq!(sent.await.unwrap(), 410, "{method} {header:?} {query}");
        }
    }
    assert!(origin.is_idle().await);
    for (query, forwarded) in [(&query, "a=1&b=2"), (&second, "")] {
        let sent = send(Method::OPTIONS, None, query);
        let call = origin.next().await;
        assert_eq!(call.request.uri().query().unwrap_or_default(), forwarded);
        sent.abort();
    }
    // If a request has both, the header takes precedence.
    let sent = send(Method::GET, Some("7"), &query);
    let call = origin.next().await;
    assert_eq!(call.header("last-event-id"), Some("7"));
    assert_eq!(call.request.uri(), "/?a=1&b=2");
    sent.abort();
    for method in [Method::GET, Method::POST] {
        for several in [format!("{id}, {id}"), format!("7,{id}")] {
            let sent = send(method.clone(), Some(&several), "");
            assert_eq!(sent.await.unwrap(), 400);
        }
    }
    assert!(origin.is_idle().await);
    let sent = send(Method::GET, Some("7, 8"), "");
    assert_eq!(origin.next().await.header("last-event-id"), Some("7, 8"));
    sent.abort();
}

#[tokio::test(start_paused = true)]
async fn upstream_ids_can_be_preserved() {
    let layer = layer_with(
        Replay::default()
            .preserve_upstream_ids(true)
            .query_param("last"),
    );
    let (front, mut origin) = staged(&layer);
    let mine = |path: &str| get(path).header("authorization", "mine");
    let (mut client, mut feed) = front.open(&mut origin, mine("/a")).await;
    feed.events(0..3).await;
    assert_eq!(client.event().await, "id: up-0\ndata: 0\n\n");
    drop(client);
    feed.send("id:  up-3 \ndata: 3\n\n").await;
    let mut again = front.send(mine("/a").header("last-event-id", "up-1")).await;
    assert_eq!(
        data(&(again.event().await + &again.event().await)),
        ["2", "3"]
    );
    let mut again = front.send(mine("/a?last=up-2")).await;
    assert_eq!(data(&again.event().await), ["3"]);
    feed.events(4..5).await;
    let mut again = front.send(mine("/a").header("last-event-id", "up-3")).await;
    assert_eq!(data(&again.event().await), ["4"]);
    // If two streams have the id, the client resumes in the newer one.
    let (_, mut second) = front.open(&mut origin, mine("/a")).await;
    second
        .send("id: up-1\ndata: 1\n\nid: x\ndata: new\n\n")
        .await;
    settle().await;
    let mut again = front.send(mine("/a").header("last-event-id", "up-1")).await;
    assert_eq!(data(&again.event().await), ["new"]);
    assert!(origin.is_idle().await);
    // A request with an unknown id, another target or another owner goes to the upstream.
    for request in [
        mine("/a").header("last-event-id", "up-9"),
        mine("/b").header("last-event-id", "up-1"),
        get("/a")
            .header("authorization", "another's")
            .header("last-event-id", "up-1"),
        get("/a").header("last-event-id", "up-1"),
    ] {
        let (_, id) = tokio::join!(front.send(request), async {
            let call = origin.next().await;
            let id = call.header("last-event-id").map(str::to_owned);
            call.stream();
            id
        });
        assert!(id.is_some_and(|id| id.starts_with("up-")));
    }
    // Two requests without credentials do not prove that they have the same owner.
    let (_, mut feed) = front.open(&mut origin, get("/c")).await;
    feed.events(0..2).await;
    settle().await;
    let (_, _) = front
        .open(&mut origin, get("/c").header("last-event-id", "up-0"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn upstream_id_is_found_only_among_retained_events() {
    let replay = Replay::default().preserve_upstream_ids(true);
    let replay = replay.retention(Retention::default().events(3));
    let (front, mut origin) = staged(&layer_with(replay));
    let mine = |id: &str| {
        let request = get("/").header("authorization", "mine");
        request.header("last-event-id", id)
    };
    let request = get("/").header("authorization", "mine");
    let (client, mut feed) = front.open(&mut origin, request).await;
    drop(client);
    feed.events(0..10).await;
    settle().await;
    let mut again = front.send(mine("up-8")).await;
    assert_eq!(data(&again.event().await), ["9"]);
    // The layer forwards the id of an evicted event, because the upstream may know it.
    let (_, _) = front.open(&mut origin, mine("up-3")).await;
}
