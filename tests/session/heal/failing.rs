//! When a session is not healed, or not again.

use std::time::Duration;

use http::Method;

use super::{
    heal, mcp,
    server::{self, Client, Opening, Server, call, gateway},
    start,
};
use crate::support::proxy;

#[tokio::test]
async fn healing_is_off_by_default() {
    let server = Server::start().await;
    let client = Client::open(proxy(mcp(), server.address).await).await;
    server.take();
    server.forget();
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.take(), ["ping UP-1"]);
}

#[tokio::test]
async fn failed_healing_passes_the_404_and_the_session_ends() {
    for opening in [
        Opening::Error,
        Opening::WithoutId,
        Opening::StreamWithoutResult,
        Opening::Broken,
        Opening::Huge,
        Opening::Status(404),
        Opening::Status(401),
        Opening::Status(503),
    ] {
        let (server, client) = start(heal()).await;
        server.forget();
        server.set_opening(opening);
        let answer = client.call("ping").await;
        assert_eq!(answer.status, 404, "{opening:?}");
        assert_eq!(server.take(), ["ping UP-1", "initialize"], "{opening:?}");
        assert_eq!(client.call("ping").await.status, 404);
        assert!(server.take().is_empty(), "{opening:?}");
    }
    let (server, client) = start(heal()).await;
    server.forget();
    server.set_initialized(400);
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.count("ping UP-2"), 0);
}

#[tokio::test]
async fn slow_healing_ends_at_its_time_limit() {
    let (server, client) = start(heal().time_limit(Duration::from_millis(50))).await;
    server.forget();
    server.set_opening(Opening::Gated);
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.take(), ["ping UP-1", "initialize"]);
}

#[tokio::test]
async fn failed_healing_of_a_get_is_tried_again() {
    let (server, client) = start(heal()).await;
    server.forget();
    server.set_opening(Opening::Status(503));
    assert_eq!(client.get().await.status, 404);
    server.set_opening(Opening::Json);
    assert_eq!(client.get().await.status, 200);
}

#[tokio::test]
async fn deleted_session_is_not_healed() {
    // The server knows the session, or has lost it.
    for is_lost in [false, true] {
        let (server, client) = start(heal()).await;
        if is_lost {
            server.forget();
        }
        let deleted = client.delete().await;
        assert_eq!(deleted.status, if is_lost { 404 } else { 200 });
        assert_eq!(client.call("ping").await.status, 404);
        assert_eq!(client.get().await.status, 404);
        assert_eq!(server.take(), ["DELETE UP-1"]);
    }
}

#[tokio::test]
async fn session_deleted_during_its_healing_stays_deleted() {
    let (server, client) = start(heal()).await;
    server.forget();
    server.set_opening(Opening::Gated);
    let gateway = client.gateway;
    let request = client.request(Method::POST, "x");
    let waiting = tokio::spawn(async move { server::send(gateway, request, &call("ping")).await });
    wait_for(&server, "initialize").await;
    assert_eq!(client.delete().await.status, 404);
    server.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().status, 404);
    // The upstream's new session has no client.
    wait_for(&server, "DELETE UP-2").await;
    assert_eq!(server.count("ping UP-2"), 0);
    assert_eq!(client.call("ping").await.status, 404);
}

#[tokio::test]
async fn other_owner_cannot_heal_a_session() {
    let (server, client) = start(heal()).await;
    server.forget();
    let thief = Client {
        owner: "Bearer of-bob",
        session: client.session.clone(),
        gateway: client.gateway,
    };
    assert_eq!(thief.call("ping").await.status, 404);
    assert_eq!(thief.get().await.status, 404);
    assert!(server.take().is_empty());
    assert_eq!(client.call("ping").await.status, 200);
}

#[tokio::test]
async fn upstream_that_knows_no_session_gets_one_initialize() {
    let (server, client) = start(heal()).await;
    server.set_initialized(202);
    server.forget();
    server.set_opening(Opening::Gated);
    // The new session is lost before the request is repeated.
    let forgets = async {
        wait_for(&server, "initialize").await;
        server.gate.add_permits(1);
        wait_for(&server, "notifications/initialized UP-2").await;
        server.forget();
    };
    let (answer, ()) = tokio::join!(client.call("tools/call"), forgets);
    assert_eq!(answer.status, 404);
    server.take();
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.take(), ["ping UP-2"]);
    assert_eq!(client.call("ping").await.status, 404);
    assert!(server.take().is_empty(), "the session has ended");
}

#[tokio::test]
async fn upstream_without_get_streams_costs_one_healing() {
    let (server, client) = start(heal()).await;
    server.set_no_get();
    for _ in 0..3 {
        assert_eq!(client.get().await.status, 404);
        assert_eq!(client.call("ping").await.status, 200);
    }
    assert_eq!(server.count("initialize"), 1);
    // A POST still heals the session.
    server.forget();
    assert_eq!(client.call("ping").await.status, 200);
    assert_eq!(server.count("initialize"), 2);
}

#[tokio::test]
async fn initialize_that_gets_404_is_passed() {
    let server = Server::start().await;
    server.set_opening(Opening::Status(404));
    let gateway = gateway(mcp(), heal(), &server).await;
    let request = http::Request::post("/mcp");
    let answer = server::send(gateway, request, server::INITIALIZE).await;
    assert_eq!(answer.status, 404);
    assert_eq!(server.take(), ["initialize"]);
}

/// Waits until the server has got this request.
pub async fn wait_for(server: &Server, line: &str) {
    wait_for_count(server, line, 1).await;
}

/// Waits until the server has got this request that many times.
pub async fn wait_for_count(server: &Server, line: &str, count: usize) {
    crate::support::soon(async {
        while server.count(line) < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
