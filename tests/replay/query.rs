//! `Replay::query_param`: the query parameter with the last event id.

use crate::support::{
    Origin,
    origin::{Front, get, layer_with, numbers},
    staged,
};
use http::Request;
use tower_sse_proxy::replay::Replay;

/// Sends a request. Returns the URI and the `Last-Event-ID` header that reach the upstream.
async fn forwarded(
    front: &Front,
    origin: &mut Origin,
    request: http::request::Builder,
) -> (String, Option<String>) {
    let (_, got) = tokio::join!(front.send(request), async {
        let call = origin.next().await;
        let got = (
            call.request.uri().to_string(),
            call.header("last-event-id").map(str::to_owned),
        );
        call.stream();
        got
    });
    got
}

#[tokio::test(start_paused = true)]
async fn percent_encoded_id_of_the_layer_resumes() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    let (mut client, mut feed) = front.open(&mut origin, get("/s?a=%61")).await;
    feed.events(0..3).await;
    let (_, id) = client.events(1).await;
    let escaped: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for query in [
        format!("a=%61&last={id}"),
        format!("a=%61&last={escaped}"),
        format!("l%61st={escaped}&a=%61"),
        format!("%6C%61%73%74={id}&a=%61"),
        format!("a=%61&last=&last={id}"),
    ] {
        let mut resumed = front.send(get(&format!("/s?{query}"))).await;
        assert_eq!(resumed.events(2).await.0, numbers(1..3), "{query}");
    }
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn value_is_decoded_once() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    let (mut client, mut feed) = front.open(&mut origin, get("/s")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let encoded_twice: String = id.bytes().map(|byte| format!("%25{byte:02x}")).collect();
    let (uri, last) = forwarded(
        &front,
        &mut origin,
        get(&format!("/s?last={encoded_twice}")),
    )
    .await;
    assert_eq!(uri, "/s");
    let decoded_once: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(
        last,
        Some(decoded_once),
        "the decoded value is not an id of the layer"
    );
}

#[tokio::test(start_paused = true)]
async fn upstream_gets_the_value_as_a_header_and_not_the_parameter() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    for (query, forwarded_query, last) in [
        ("?last=up-7", "", Some("up-7")),
        ("?a=1&last=up-7&b=%20", "?a=1&b=%20", Some("up-7")),
        ("?last=up%207%2B1", "", Some("up 7+1")),
        ("?last=up+7", "", Some("up 7")),
        ("?l%61st=up-7&a", "?a", Some("up-7")),
        ("?a=1;last=up-7", "?a=1", Some("up-7")),
        ("?last=up-7&last=up-7", "", Some("up-7")),
        ("?last=&a=1", "?a=1", None),
        ("?last", "", None),
        ("?lastly=up-7", "?lastly=up-7", None),
        ("?a=last=up-7", "?a=last=up-7", None),
    ] {
        let request = get(&format!("/s{query}"));
        let (uri, got) = forwarded(&front, &mut origin, request).await;
        assert_eq!(
            (uri, got.as_deref()),
            (format!("/s{forwarded_query}"), last),
            "{query}"
        );
    }
    // If a request has both, the header takes precedence.
    let both = get("/s?last=up-7").header("last-event-id", "up-8");
    let (uri, last) = forwarded(&front, &mut origin, both).await;
    assert_eq!((&*uri, last.as_deref()), ("/s", Some("up-8")));
    let empty = get("/s?last=up-7").header("last-event-id", "");
    let (uri, last) = forwarded(&front, &mut origin, empty).await;
    assert_eq!((&*uri, last.as_deref()), ("/s", Some("up-7")));
}

#[tokio::test(start_paused = true)]
async fn other_method_with_an_id_is_not_forwarded() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    for method in ["POST", "PUT", "DELETE"] {
        for query in ["?last=up-7", "?a=1&l%61st=up-7"] {
            let request = Request::builder().method(method).uri(format!("/s{query}"));
            let answer = front.send(request).await;
            assert!(answer.rest().await.0.contains("gap"), "{method} {query}");
        }
        let without_id = Request::builder().method(method).uri("/s?last=&a=1");
        let (uri, last) = forwarded(&front, &mut origin, without_id).await;
        assert_eq!((&*uri, last), ("/s?a=1", None), "{method}");
    }
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn value_that_cannot_be_an_id_is_rejected() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    for query in [
        "last=a%0d%0ax-admin:%201",
        "last=%00",
        "last=up-7&last=up-8",
    ] {
        let rejected = front.send(get(&format!("/s?{query}"))).await;
        assert_eq!(rejected.status, 400, "{query}");
        assert!(rejected.rest().await.0.contains("`last`"), "{query}");
    }
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn percent_encoded_upstream_id_resumes() {
    let replay = Replay::default()
        .preserve_upstream_ids(true)
        .query_param("last");
    let (front, mut origin) = staged(&layer_with(replay).owner(|_| Some("me")));
    let (mut client, mut feed) = front.open(&mut origin, get("/s")).await;
    feed.send("id: a b+c\ndata: 0\n\ndata: 1\n\n").await;
    client.event().await;
    for query in ["last=a%20b%2Bc", "last=a+b%2bc", "%6cast=%61%20b%2Bc"] {
        let mut resumed = front.send(get(&format!("/s?{query}"))).await;
        assert_eq!(resumed.event().await, "data: 1\n\n", "{query}");
    }
    assert!(origin.is_idle().await);
}
