//! Replay of MCP streams, for each revision of the protocol.

use crate::support::{origin::get, staged};
use http::Request;
use tower_sse_proxy::{Policy, SseProxyLayer, profile::Mcp, replay::Replay};

#[tokio::test(start_paused = true)]
async fn id_of_the_layer_in_a_list_never_goes_upstream() {
    let mcp = Mcp::new(Policy::default().replay(Replay::default()));
    let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
    let (front, mut origin) = staged(&layer);
    let id = "0123456789abcdef0123456789abcdef.0.7";
    for list in [format!("{id}, 7"), format!("7,{id}")] {
        let request = get("/mcp").header("last-event-id", list);
        let sent = tokio::spawn({
            let front = front.clone();
            async move { front.send(request).await.status }
        });
        assert!(origin.is_idle().await);
        assert_eq!(sent.await.unwrap(), 400);
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_id_goes_upstream_only_if_upstream_ids_are_preserved() {
    let revisions = ["2025-03-26", "2025-06-18", "2025-11-25"];
    let forwarded_revisions = |replay: Replay| async move {
        let mcp = Mcp::new(Policy::default().replay(replay));
        let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
        let (front, mut origin) = staged(&layer);
        let mut forwarded = Vec::new();
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
                forwarded.push(revision);
            }
        }
        forwarded
    };
    assert!(forwarded_revisions(Replay::default()).await.is_empty());
    // The clients have ids of the upstream, which may be of evicted events.
    let preserved = Replay::default().preserve_upstream_ids(true);
    assert_eq!(forwarded_revisions(preserved.clone()).await, revisions);
    // `reject_foreign_ids` rejects them nevertheless.
    assert!(
        forwarded_revisions(preserved.reject_foreign_ids(true))
            .await
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn client_without_revision_or_session_resumes() {
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
