//! Replay of MCP streams, by the revision of the request.

use crate::support::{origin::get, staged};
use http::Request;
use tower_sse_proxy::{Policy, SseProxyLayer, profile::Mcp, replay::Replay};

#[tokio::test(start_paused = true)]
async fn nothing_of_ours_goes_upstream_in_a_list_to_a_server_of_mcp() {
    let mcp = Mcp::new(Policy::default().replay(Replay::default()));
    let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
    let (front, mut origin) = staged(&layer);
    let id = "0123456789abcdef0123456789abcdef.0.7";
    for several in [format!("{id}, 7"), format!("7,{id}")] {
        let request = get("/mcp").header("last-event-id", several);
        let sent = tokio::spawn({
            let front = front.clone();
            async move { front.send(request).await.status }
        });
        assert!(origin.is_idle().await);
        assert_eq!(sent.await.unwrap(), 400);
    }
}

#[tokio::test(start_paused = true)]
async fn no_server_of_mcp_is_asked_to_look_up_an_id_that_its_client_cannot_have() {
    let revisions = ["2025-03-26", "2025-06-18", "2025-11-25"];
    let asked = |replay: Replay| async move {
        let mcp = Mcp::new(Policy::default().replay(replay));
        let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
        let (front, mut origin) = staged(&layer);
        let mut asked = Vec::new();
        for revision in revisions {
            let request = get("/mcp").header("mcp-protocol-version", revision);
            let sent = tokio::spawn({
                let front = front.clone();
                async move {
                    front
                        .send(request.header("last-event-id", "7"))
                        .await
                        .status
                }
            });
            if origin.is_idle().await {
                assert_eq!(sent.await.unwrap(), 400);
            } else {
                asked.push(revision);
            }
        }
        asked
    };
    assert!(asked(Replay::default()).await.is_empty());
    // Here it has the upstream's, and they may be older than what is kept.
    let upstreams = Replay::default().preserve_upstream_ids(true);
    assert_eq!(asked(upstreams.clone()).await, revisions);
    // ... unless it is said that they are not.
    assert!(asked(upstreams.reject_foreign_ids(true)).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_of_mcp_without_sessions_is_resumed_by_clients_that_name_no_revision() {
    let mcp = Mcp::new(Policy::default().replay(Replay::default()));
    let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
    let (front, mut origin) = staged(&layer);
    let (mut client, mut feed) = front.open(&mut origin, Request::post("/mcp")).await;
    feed.send("data: {\"method\":\"progress\"}\n\ndata: {\"id\":1,\"result\":{}}\n\n")
        .await;
    let (_, id) = client.events(1).await;
    drop(client);
    let mut again = front.send(get("/mcp").header("last-event-id", id)).await;
    assert_eq!(again.events(1).await.0, [r#"{"id":1,"result":{}}"#]);
    assert!(origin.is_idle().await);
}
