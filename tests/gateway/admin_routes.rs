//! The admin routes: data for the live page, and the check of the origin.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    admin::{Admin, routes},
    support::origin::{get, recording_layer, staged},
    totals::Totals,
};

fn admin(totals: Totals, streams: tower_sse_proxy::Streams, is_loopback: bool) -> Router {
    let admin = Admin {
        streams,
        totals,
        metrics: Arc::new(String::new),
        drain: Duration::from_secs(1),
    };
    routes(admin, is_loopback)
}

async fn ask(routes: &Router, request: http::request::Builder) -> (StatusCode, String) {
    let request: Request<Body> = request.body(Body::empty()).unwrap();
    let (head, body) = routes.clone().oneshot(request).await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (head.status, String::from_utf8(text.into()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn totals_count_outcomes_and_list_the_streams_that_ended_after_a_number() {
    let totals = Totals::default();
    let layer = recording_layer().observe(totals.clone());
    let routes = admin(totals, layer.streams(), true);
    let (front, mut origin) = staged(&layer);
    for path in ["/a", "/b"] {
        let (client, mut feed) = front.open(&mut origin, get(path)).await;
        feed.events(0..3).await;
        feed.end();
        client.rest().await;
    }
    let asked = async |after: u64| -> Value {
        let (status, text) = ask(&routes, get(&format!("/totals?after={after}"))).await;
        assert_eq!(status, 200);
        serde_json::from_str(&text).unwrap()
    };
    let all = asked(0).await;
    assert_eq!(all["outcomes"]["completed"], 2);
    assert_eq!(all["outcomes"]["revoked"], 0);
    let ended = all["ended"].as_array().unwrap();
    let told = ended.iter().map(|one| (&one["number"], &one["outcome"]));
    let told: Vec<_> = told
        .map(|(number, outcome)| format!("{number} {outcome}"))
        .collect();
    assert_eq!(told, ["1 \"completed\"", "2 \"completed\""]);
    assert_eq!(ended[0]["events"], 3);
    assert_eq!(asked(1).await["ended"].as_array().unwrap().len(), 1);
    assert_eq!(asked(2).await["ended"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn requests_of_pages_of_other_origins_get_403() {
    let totals = Totals::default();
    let layer = recording_layer().observe(totals.clone());
    let loopback = admin(totals.clone(), layer.streams(), true);
    let open = admin(totals, layer.streams(), false);
    let status = async |routes, host: &str, origin: Option<&str>| {
        let request = get("/streams").header("host", host);
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        ask(routes, request).await.0.as_u16()
    };
    for host in ["127.0.0.1:9", "localhost:9", "[::1]:9"] {
        assert_eq!(status(&loopback, host, None).await, 200, "{host}");
        let own = format!("http://{host}");
        assert_eq!(status(&loopback, host, Some(&own)).await, 200, "{host}");
    }
    for origin in ["http://example.com", "http://127.0.0.1:8", "null"] {
        assert_eq!(
            status(&loopback, "127.0.0.1:9", Some(origin)).await,
            403,
            "{origin}"
        );
        assert_eq!(
            status(&open, "gateway:9", Some(origin)).await,
            403,
            "{origin}"
        );
    }
    // A name that another site has bound to the loopback address.
    assert_eq!(status(&loopback, "example.com:9", None).await, 403);
    assert_eq!(status(&open, "gateway:9", None).await, 200);
}
