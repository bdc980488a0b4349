//! A request other than GET reaches the upstream once, with any end of its stream and any number of resumes.

use http::{Method, Request};
use tower_sse_proxy::{
    ErrorKind, Policy, SseProxyLayer,
    profile::Mcp,
    reconnect::{Backoff, Reconnect},
    replay::{Gap, Replay},
};

use crate::support::{
    Feed, Front, Origin, data,
    origin::{after, get, layer_with, numbers, recording_layer, settle},
    staged,
};

/// The end of the upstream's response.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Broken,
    Clean,
    /// Inside an event.
    Truncated,
}

const ENDINGS: [Ending; 3] = [Ending::Broken, Ending::Clean, Ending::Truncated];

async fn end(feed: &mut Feed, ending: Ending) {
    match ending {
        Ending::Broken => feed.cut(),
        Ending::Clean => feed.end(),
        Ending::Truncated => {
            feed.send("data: half").await;
            feed.end();
        }
    }
}

/// Opens a stream of two events and ends it. Returns the ids of both.
async fn ended_stream(
    front: &Front,
    origin: &mut Origin,
    request: http::request::Builder,
    ending: Ending,
) -> [String; 2] {
    let (mut client, mut feed) = front.open(origin, request).await;
    feed.events(0..2).await;
    let first = client.events(1).await.1;
    let last = client.events(1).await.1;
    end(&mut feed, ending).await;
    client.rest().await;
    [first, last]
}

fn resume(method: Method, id: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .header("last-event-id", id)
}

#[tokio::test(start_paused = true)]
async fn request_that_resumes_with_its_own_method_is_answered_from_the_log() {
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for ending in ENDINGS {
            let (front, mut origin) = staged(&recording_layer());
            let request = Request::builder().method(method.clone());
            let [first, last] = ended_stream(&front, &mut origin, request, ending).await;
            let (text, cut) = front
                .send(resume(method.clone(), &first))
                .await
                .rest()
                .await;
            assert_eq!(data(&text)[0], "1", "{method} {ending:?}");
            let expected = (ending == Ending::Broken).then_some(ErrorKind::Upstream);
            assert_eq!(cut, expected, "{method} {ending:?}");
            for _ in 0..3 {
                let answer = front.send(resume(method.clone(), &last)).await;
                if ending == Ending::Clean {
                    assert_eq!(answer.status, 200, "{method}");
                    assert_eq!(answer.rest().await, (String::new(), None));
                } else {
                    assert_eq!(answer.status, 410, "{method} {ending:?}");
                }
            }
            assert!(origin.is_idle().await, "{method} {ending:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_opened_with_get_is_resumed_upstream_only_by_get() {
    for ending in ENDINGS {
        let (front, mut origin) = staged(&recording_layer());
        let [_, last] = ended_stream(&front, &mut origin, get("/"), ending).await;
        let status = if ending == Ending::Clean { 200 } else { 410 };
        for method in [Method::POST, Method::PUT] {
            let answer = front.send(resume(method, &last)).await;
            assert_eq!(answer.status, status, "{ending:?}");
        }
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn get_that_resumes_a_broken_post_is_not_forwarded() {
    let (front, mut origin) = staged(&recording_layer());
    let [first, last] = ended_stream(&front, &mut origin, Request::post("/"), Ending::Broken).await;
    let (text, cut) = front.send(after(&first)).await.rest().await;
    assert_eq!(
        (data(&text), cut),
        (numbers(1..2), Some(ErrorKind::Upstream))
    );
    let answer = front.send(after(&last)).await.rest().await.0;
    assert!(answer.contains(r#"{"reason":"failed"}"#), "{answer}");
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn resume_with_get_lets_a_get_resume_a_broken_post_upstream() {
    let rules = Reconnect::default()
        .backoff(Backoff::default().max_attempts(0))
        .resume_with_get(|request| request.method == Method::POST);
    let (front, mut origin) = staged(&recording_layer().reconnect(rules));
    let [_, last] = ended_stream(&front, &mut origin, Request::post("/"), Ending::Broken).await;
    assert_eq!(front.send(resume(Method::POST, &last)).await.status, 410);
    assert!(origin.is_idle().await);
    let (again, ()) = tokio::join!(front.send(after(&last)), async {
        let call = origin.next().await;
        assert_eq!(call.request.method(), Method::GET);
        assert_eq!(call.header("last-event-id"), Some("up-1"));
        let mut feed = call.stream();
        feed.events(2..3).await;
        feed.end();
    });
    assert_eq!(data(&again.rest().await.0), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn unknown_id_is_rejected_unless_the_method_is_get() {
    let own = "0123456789abcdef0123456789abcdef.0.7";
    let verbatim = Replay::default().preserve_upstream_ids(true);
    for replay in [
        Replay::default(),
        verbatim,
        Replay::default().reject_foreign_ids(true),
    ] {
        let (front, mut origin) = staged(&layer_with(replay));
        for method in [
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::HEAD,
        ] {
            for id in [own, "up-7", "7, 8", "0123456789abcdef.0.7"] {
                let answer = front.send(resume(method.clone(), id)).await;
                assert_eq!(answer.status, 410, "{method} {id}");
            }
        }
        assert!(origin.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn post_with_an_upstream_id_is_never_forwarded() {
    let layer = layer_with(
        Replay::default()
            .preserve_upstream_ids(true)
            .on_gap(Gap::Event),
    );
    let (front, mut origin) = staged(&layer);
    let mine = |request: http::request::Builder| request.header("authorization", "mine");
    let (mut client, mut feed) = front.open(&mut origin, mine(Request::post("/"))).await;
    feed.events(0..2).await;
    client.events(2).await;
    feed.cut();
    client.rest().await;
    let (text, cut) = front
        .send(mine(resume(Method::POST, "up-0")))
        .await
        .rest()
        .await;
    assert_eq!(
        (data(&text), cut),
        (numbers(1..2), Some(ErrorKind::Upstream))
    );
    for id in ["up-1", "up-9"] {
        assert_eq!(front.send(mine(resume(Method::POST, id))).await.status, 410);
    }
    // The upstream's ids identify no streams of anonymous owners.
    assert_eq!(front.send(resume(Method::POST, "up-0")).await.status, 410);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn head_that_resumes_gets_the_head_of_the_recorded_stream() {
    let (front, mut origin) = staged(&recording_layer());
    let (mut client, mut feed) = front.open(&mut origin, get("/")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    let head = front.send(resume(Method::HEAD, &id)).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(head.rest().await, (String::new(), None));
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn preflight_of_a_resume_is_forwarded_without_the_id() {
    let (front, mut origin) = staged(&layer_with(Replay::default().query_param("last")));
    let uri = "/?last=0123456789abcdef0123456789abcdef.0.7&a=1";
    let request = get(uri).method(Method::OPTIONS);
    let (answer, ()) = tokio::join!(front.send(request), async {
        let call = origin.next().await;
        assert_eq!(call.request.uri(), "/?a=1");
        call.status(http::StatusCode::NO_CONTENT);
    });
    assert_eq!(answer.status, 204);
}

fn mcp() -> SseProxyLayer {
    let mcp = Mcp::new(Policy::default().replay(Replay::default()));
    SseProxyLayer::default().policy(move |request, _| mcp.policy(request))
}

#[tokio::test(start_paused = true)]
async fn mcp_server_is_resumed_by_get_and_never_by_post() {
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        for ending in ENDINGS {
            let request_by = |method: Method| {
                let request = Request::builder().method(method).uri("/mcp");
                request.header("mcp-protocol-version", revision)
            };
            let (front, mut origin) = staged(&mcp());
            let (client, mut feed) = front.open(&mut origin, request_by(Method::POST)).await;
            feed.events(0..1).await;
            settle().await;
            end(&mut feed, ending).await;
            let (text, _) = client.rest().await;
            let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
            let id = ids.next_back().expect("an id").to_owned();
            let post = front
                .send(request_by(Method::POST).header("last-event-id", &id))
                .await;
            assert_eq!(post.status, 400, "{revision} {ending:?}");
            assert!(origin.is_idle().await, "{revision} {ending:?}");
            let by_get = request_by(Method::GET).header("last-event-id", &id);
            let (again, ()) = tokio::join!(front.send(by_get), async {
                let call = origin.next().await;
                assert_eq!(call.request.method(), Method::GET);
                assert_eq!(call.header("last-event-id"), Some("up-0"));
                let mut feed = call.stream();
                feed.events(1..2).await;
                feed.end();
            });
            // After a truncated or broken response, the rest is a new stream, which starts with a priming event without data.
            let mut events = data(&again.rest().await.0);
            events.retain(|data| !data.is_empty());
            assert_eq!(events, ["1"], "{revision} {ending:?}");
        }
    }
}
