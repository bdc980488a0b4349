//! One healing for many requests, clients that leave, and stores that several nodes share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use http::Method;
use tower_sse_proxy::{
    Policy, SseProxyLayer,
    profile::Mcp,
    session::{MemoryStore, SealedKey, SealedStore, SessionStore},
};

use super::{
    failing::{wait_for, wait_for_count},
    heal,
    server::{self, Client, Opening, Server, call, gateway},
    start,
};
use crate::support::soon;

#[tokio::test]
async fn twenty_concurrent_requests_share_one_initialize() {
    for calls in [0, 7] {
        let healed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&healed);
        let hook = move |_: &_| {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let (server, client) = start(heal().on_healed(hook)).await;
        server.forget();
        server.hold_404();
        let requests = (0..20).map(|n| match n < calls {
            true => client.call("tools/call"),
            false => client.call("ping"),
        });
        let releases = async {
            wait_for_count(&server, "ping UP-1", 20 - calls).await;
            wait_for_count(&server, "tools/call UP-1", calls).await;
            // Some are answered during the healing, and some after it.
            server.lost.add_permits(12);
            wait_for(&server, "ping UP-2").await;
            server.lost.add_permits(8);
        };
        let (answers, ()) = tokio::join!(join_all(requests), releases);
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        let expected: Vec<_> = (0..20).map(|n| if n < calls { 404 } else { 200 }).collect();
        assert_eq!(statuses, expected);
        let seen = server.take();
        let count = |line: &str| seen.iter().filter(|seen| **seen == line).count();
        assert_eq!(count("initialize"), 1);
        assert_eq!(count("notifications/initialized UP-2"), 1);
        assert_eq!(
            (count("ping UP-1"), count("ping UP-2")),
            (20 - calls, 20 - calls)
        );
        assert_eq!(
            (count("tools/call UP-1"), count("tools/call UP-2")),
            (calls, 0)
        );
        assert_eq!(healed.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn request_that_arrives_during_a_healing_waits_for_it() {
    let (server, client) = start(heal()).await;
    server.forget();
    server.set_opening(Opening::Gated);
    let first = client.call("ping");
    let second = async {
        wait_for(&server, "initialize").await;
        let gate = Arc::clone(&server.gate);
        let opens = tokio::spawn(async move {
            // The call has reached the gateway by then, or is sent to the new session anyway.
            tokio::task::yield_now().await;
            gate.add_permits(1);
        });
        let answer = client.call("tools/call").await;
        opens.await.unwrap();
        answer
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(server.count("tools/call UP-1"), 0);
    assert_eq!(server.count("tools/call UP-2"), 1);
}

#[tokio::test]
async fn healing_continues_when_its_client_disconnects() {
    let (server, client) = start(heal()).await;
    server.forget();
    server.set_opening(Opening::Gated);
    let gateway = client.gateway;
    let request = client.request(Method::POST, "x");
    let left = tokio::spawn(async move { server::send(gateway, request, &call("ping")).await });
    wait_for(&server, "initialize").await;
    left.abort();
    assert!(left.await.is_err_and(|error| error.is_cancelled()));
    server.gate.add_permits(1);
    assert_eq!(client.call("tools/call").await.status, 200);
    assert_eq!(server.count("initialize"), 1);
    assert_eq!(server.count("tools/call UP-2"), 1);
}

#[tokio::test]
async fn sessions_of_other_clients_are_healed_separately() {
    let (server, client) = start(heal()).await;
    let other = Client::open_as(client.gateway, "Bearer of-bob").await;
    server.take();
    server.forget();
    for client in [&client, &other] {
        assert_eq!(client.call("ping").await.status, 200);
    }
    let owners: Vec<_> = server.seen();
    let owners = owners.iter().filter(|seen| seen.body == server::INITIALIZE);
    let owners: Vec<_> = owners
        .filter_map(|seen| seen.header("authorization"))
        .collect();
    assert_eq!(owners, ["Bearer of-alice", "Bearer of-bob"]);
}

#[tokio::test]
async fn client_that_opens_a_new_session_after_a_404_has_both() {
    let (server, client) = start(heal()).await;
    server.forget();
    assert_eq!(client.call("tools/call").await.status, 404);
    let again = Client::open(client.gateway).await;
    assert_ne!(again.session, client.session);
    assert_eq!(again.call("ping").await.status, 200);
    assert_eq!(client.call("ping").await.status, 200);
    assert_eq!(server.count("ping UP-3"), 1);
    assert_eq!(server.count("ping UP-2"), 1);
}

fn node(store: impl SessionStore) -> SseProxyLayer {
    let mcp = Mcp::new(Policy::default());
    SseProxyLayer::new(store)
        .owner_key("the same on all nodes")
        .policy(move |request, _| mcp.policy(request))
}

#[tokio::test]
async fn healed_session_works_on_each_node_of_a_store_that_can_rebind() {
    let server = Server::start().await;
    let store = MemoryStore::default();
    let one = gateway(node(store.clone()), heal(), &server).await;
    let two = gateway(node(store), heal(), &server).await;
    let client = Client::open(one).await;
    let on_two = Client {
        gateway: two,
        owner: client.owner,
        session: client.session.clone(),
    };
    assert_eq!(on_two.call("ping").await.status, 200);
    server.forget();
    assert_eq!(client.call("ping").await.status, 200);
    assert_eq!(on_two.call("tools/call").await.status, 200);
    assert_eq!(server.count("tools/call UP-2"), 1);
    // The second node has not seen `initialize`.
    server.forget();
    assert_eq!(on_two.get().await.status, 404);
    assert_eq!(server.count("GET UP-2"), 1);
    assert_eq!(server.count("initialize"), 2);
    assert_eq!(client.get().await.status, 200);
}

#[tokio::test]
async fn healed_session_of_a_sealed_store_works_on_its_node() {
    let server = Server::start().await;
    let sealed = SealedStore::new(SealedKey::generate());
    let client = Client::open(gateway(node(sealed), heal(), &server).await).await;
    for new in ["UP-2", "UP-3", "UP-4"] {
        server.forget();
        server.take();
        let answer = client.call("ping").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("mcp-session-id"), Some(&*client.session));
        for _ in 0..2 {
            let answer = soon(client.call("tools/call")).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("mcp-session-id"), Some(&*client.session));
        }
        assert_eq!(server.count(&format!("tools/call {new}")), 2);
    }
    assert_eq!(client.delete().await.status, 200);
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.count("DELETE UP-4"), 1);
}
