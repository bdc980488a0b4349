//! Which requests the gateway attributes to the same owner.

use std::time::Duration;

use crate::routes::layer;
use crate::settings::Settings;
use crate::support::{
    origin::{Front, Origin, get, settle},
    staged,
};
use clap::Parser;
use http::request::Builder;
use tower_sse_proxy::Policy;

fn gateway() -> (Front, Origin) {
    gateway_with(&[])
}

fn gateway_with(arguments: &[&str]) -> (Front, Origin) {
    let settings = Settings::parse_from(["gateway"].iter().chain(arguments));
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
async fn clients_with_another_or_no_api_key_do_not_share_a_stream() {
    for name in [
        "authorization",
        "x-api-key",
        "api-key",
        "x-auth-token",
        "x-goog-api-key",
    ] {
        let (front, mut origin) = gateway();
        let request = || get("/f/a").header("host", "gateway");
        let (mut mine, mut feed) = front
            .open(&mut origin, request().header(name, "mine"))
            .await;
        let others: [Builder; 3] = [
            request(),
            request().header(name, "yours"),
            request().header(name, "mine").header(name, "yours"),
        ];
        let mut open = Vec::new();
        for other in others {
            open.push(front.open(&mut origin, other).await);
        }
        let mut again = front.send(request().header(name, "mine")).await;
        assert!(origin.is_idle().await, "{name}: the same owner shares");
        feed.events(0..1).await;
        assert_eq!(mine.events(1).await, again.events(1).await);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_to_other_hosts_do_not_share_a_stream() {
    let (front, mut origin) = gateway();
    let (mut one, mut feed) = front
        .open(&mut origin, get("/f/a").header("host", "one.example"))
        .await;
    let two = get("/f/a").header("host", "two.example");
    let (_two, _feed) = front.open(&mut origin, two).await;
    // HTTP/2 requests have the host in the URI.
    let two = get("http://three.example/f/a");
    let (_three, _feed) = front.open(&mut origin, two).await;
    let mut same = front.send(get("http://one.example/f/a")).await;
    assert!(origin.is_idle().await);
    feed.events(0..1).await;
    assert_eq!(one.events(1).await, same.events(1).await);
}

#[tokio::test(start_paused = true)]
async fn stream_is_not_resumed_with_another_api_key_or_host() {
    let (front, mut origin) = gateway();
    let request = |key: &str, host: &str| get("/r/a").header("x-api-key", key).header("host", host);
    let (mut client, mut feed) = front.open(&mut origin, request("mine", "a")).await;
    feed.events(0..2).await;
    let (_, id) = client.events(1).await;
    for other in [
        request("yours", "a"),
        request("mine", "b"),
        get("/r/a").header("host", "a"),
    ] {
        let answer = front.send(other.header("last-event-id", &id)).await;
        let (text, _) = answer.rest().await;
        assert!(text.starts_with("event: gap\n"), "{text}");
        assert!(text.contains("unknown"), "{text}");
    }
    let mut resumed = front
        .send(request("mine", "a").header("last-event-id", &id))
        .await;
    assert_eq!(resumed.events(1).await.0, ["1"]);
    assert!(origin.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn max_detached_per_owner_limits_the_detached_streams_of_an_owner() {
    let (front, mut origin) = gateway_with(&["--max-detached-per-owner", "2"]);
    let mut feeds = Vec::new();
    for key in ["other", "mine", "mine", "mine"] {
        let (client, feed) = front
            .open(&mut origin, get("/r/a").header("x-api-key", key))
            .await;
        drop(client);
        settle().await;
        feeds.push(feed);
    }
    let mut ended = Vec::new();
    for feed in &mut feeds {
        ended.push(feed.is_dropped().await);
    }
    assert_eq!(ended, [false, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn stream_ends_at_its_maximum_age_despite_resumes_every_minute() {
    for (arguments, age) in [
        (&["--detach-ms", "90000"][..], 24 * 60),
        (&["--detach-ms", "90000", "--watchdog-age-ms", "600000"], 10),
    ] {
        let (front, mut origin) = gateway_with(arguments);
        let (mut client, mut feed) = front.open(&mut origin, get("/r/a")).await;
        feed.events(0..1).await;
        let (_, mut id) = client.events(1).await;
        drop(client);
        for minute in 1..age {
            tokio::time::advance(Duration::from_secs(60)).await;
            feed.events(minute..minute + 1).await;
            let mut resumed = front.send(get("/r/a").header("last-event-id", &id)).await;
            id = resumed.events(1).await.1;
        }
        assert!(!feed.is_dropped().await);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(feed.is_dropped().await, "{arguments:?}");
    }
}
