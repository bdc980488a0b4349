//! Session mapping for MCP, by the protocol revision of the request.

use crate::proxy::{Proxy, answer, header, post, with};
use http::StatusCode;
use tower_sse_proxy::{Policy, SseProxyLayer, profile::Mcp};

#[tokio::test]
async fn revision_of_each_request_selects_the_mapping() {
    let mcp = Mcp::new(Policy::default());
    let layer = SseProxyLayer::default().policy(move |request, _| mcp.policy(request));
    let proxy = Proxy::new(layer, |request| {
        let id = request.headers().get("mcp-session-id");
        let id = id.map_or("UP-1", |id| id.to_str().unwrap());
        with(answer("{}"), "Mcp-Session-Id", id)
    });
    let version = |version: &str| post("/mcp").header("MCP-Protocol-Version", version);
    let id = header(&proxy.send(post("/mcp")).await, "mcp-session-id").unwrap();
    for old in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let request = version(old)
            .header("mcp-session-id", &id)
            .header("last-event-id", "7");
        assert_eq!(
            header(&proxy.send(request).await, "mcp-session-id").as_ref(),
            Some(&id)
        );
        assert_eq!(
            proxy.requests.header("mcp-session-id").as_deref(),
            Some("UP-1")
        );
        assert_eq!(proxy.requests.header("last-event-id").as_deref(), Some("7"));
    }
    for stolen in ["UP-1", &id] {
        let request = version("2026-07-28").uri("/mcp?sessionId=UP-1&a=1");
        let request = request
            .header("mcp-session-id", stolen)
            .header("last-event-id", "7")
            .header("mcp-method", "x");
        let response = proxy.send(request).await;
        assert_eq!(
            (response.status(), header(&response, "mcp-session-id")),
            (StatusCode::OK, None)
        );
        assert_eq!(proxy.requests.header("mcp-session-id"), None);
        assert_eq!(proxy.requests.header("last-event-id"), None);
        assert_eq!(proxy.requests.header("mcp-method").as_deref(), Some("x"));
        assert_eq!(proxy.requests.last().uri(), "/mcp?a=1");
    }
    let requests_before = proxy.requests.count();
    let two_revisions = version("2025-11-25").header("mcp-protocol-version", "2026-07-28");
    assert_eq!(
        proxy.send(two_revisions).await.status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(proxy.requests.count(), requests_before);
}
