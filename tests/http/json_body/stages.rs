//! JSON bodies are inspected on every path: with session mapping, with replay, with shared calls and with reconnects.

use http::Request;
use tower_sse_proxy::{Event, reconnect::Backoff, replay::Replay, session::SessionMapping};

use super::{JSON, inspecting, passed, response, secret};
use crate::support::{Call, FedBody, SECRET, Script, soon, staged};

fn masked(mut event: Event) -> Event {
    event.set_data(event.data().replace(SECRET, "***"));
    event
}

const MASKED: &str = "{\"a\":\"***\"}";

#[tokio::test]
async fn body_is_inspected_on_every_path() {
    let sessions = || SessionMapping::header("mcp-session-id".parse().unwrap());
    let base = || inspecting().intercept(masked);
    let fields = [JSON, ("mcp-session-id", "upstream-id")];
    for (layer, is_mapped) in [
        (base(), false),
        (base().sessions(sessions()), true),
        (base().replay(Replay::default()), false),
        (base().replay(Replay::default()).sessions(sessions()), true),
    ] {
        let (head, body) = passed(&layer, response(&fields, Script::of([secret()]))).await;
        assert_eq!((head.status.as_u16(), body.as_str()), (200, MASKED));
        let id = &head.headers["mcp-session-id"];
        assert_eq!(id != "upstream-id", is_mapped);
    }
    let layer = base().reconnect(Backoff::default());
    let (front, mut origin) = staged(&layer);
    let (client, ()) = tokio::join!(front.send(Request::get("/")), async {
        answer(origin.next().await).await;
    });
    assert_eq!(client.rest().await, (MASKED.to_owned(), None));
}

async fn answer(call: Call) {
    let (mut feed, body) = FedBody::new(1);
    call.answer(response(&[JSON], body));
    soon(feed.send_data(secret().into())).await.unwrap();
}

/// A body is not shared: each request that waited for the shared call makes its own.
#[tokio::test]
async fn requests_that_share_a_call_each_get_an_inspected_body() {
    let share = Replay::default().share_by(|_| Some("all".to_owned()));
    let layer = inspecting().intercept(masked).replay(share);
    let (front, mut origin) = staged(&layer);
    let client = || front.send(Request::get("/"));
    let upstream = async {
        for _ in 0..2 {
            answer(origin.next().await).await;
        }
    };
    let (first, second, ()) = tokio::join!(client(), client(), upstream);
    for client in [first, second] {
        assert_eq!(client.status, 200);
        assert_eq!(client.rest().await, (MASKED.to_owned(), None));
    }
}
