//! How the gateway treats streams, by the path of the request.

use crate::routes::layer;
use crate::settings::Settings;
use crate::support::{
    origin::{Front, Origin, get},
    staged,
};
use clap::Parser;
use tower_sse_proxy::Policy;

fn gateway() -> (Front, Origin) {
    let settings = Settings::parse_from(["gateway"]);
    let upstream = "http://127.0.0.1:9".parse().unwrap();
    let layer = layer(
        Policy::default(),
        &settings,
        settings.listen.addresses[0],
        &upstream,
    );
    staged(&layer.unwrap())
}

#[tokio::test(start_paused = true)]
async fn id_that_the_gateway_has_not_assigned_gets_a_gap_event() {
    let (front, mut origin) = gateway();
    for id in [
        "up-7",
        "7",
        "0123456789abcdef0123456789abcdef.0.7",
        "0123456789abcdef0123456789abcdef.0",
    ] {
        let answer = front.send(get("/r/a").header("last-event-id", id)).await;
        let (text, _) = answer.rest().await;
        assert!(text.starts_with("event: gap\n"), "{id}: {text}");
    }
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn cookies_in_one_or_two_header_fields_are_the_same_owner() {
    let (front, mut origin) = gateway();
    let shared = || get("/f/a").header("authorization", "me");
    let one = shared().header("cookie", "a=1; b=2");
    let (mut one, mut feed) = front.open(&mut origin, one).await;
    let two = shared().header("cookie", "a=1").header("cookie", "b=2");
    let mut two = front.send(two).await;
    feed.events(0..1).await;
    assert_eq!(one.events(1).await, two.events(1).await);
    let other = shared().header("cookie", "a=1").header("cookie", "b=3");
    let (other, _feed) = front.open(&mut origin, other).await;
    assert_eq!(other.status, 200);
}
