//! Requests of foreign web pages to the MCP routes.

use http::Method;

use crate::{
    serving::gateway,
    support::{Upstream, connect, sse},
};

/// Sends a request with this target and these header lines on a new connection. Returns the status.
async fn status(gateway: std::net::SocketAddr, method: &Method, target: &str, lines: &str) -> u16 {
    let mut client = connect(gateway).await;
    let request = format!("{method} {target} HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n");
    client.write(request).await;
    let head = client.head().await.unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn r47_foreign_origin_or_host_gets_403_before_the_upstream() {
    let mut silent = Upstream::start().await;
    let gateway = gateway(&[], silent.address).await;
    let port = gateway.port();
    let own = format!("host: localhost:{port}\r\n");
    let mut lines = Vec::new();
    for origin in [
        "http://evil.example".to_owned(),
        "null".to_owned(),
        String::new(),
        "file://".to_owned(),
        "*".to_owned(),
        format!("https://localhost:{port}"),
        format!("http://localhost:{}", port - 1),
        "http://localhost".to_owned(),
        format!("http://localhost:{port}0"),
        format!("http://localhost:{port}.evil.example"),
        format!("http://localhost.evil.example:{port}"),
        format!("http://evil-localhost:{port}"),
        format!("http://localhost:{port}@evil.example"),
        format!("http://evil.example#http://localhost:{port}"),
        format!("http://localhost:{port}/path"),
        format!("http://LOCALHOST:{port}"),
        format!("http://localhost.:{port}"),
        format!("http://127.1:{port}"),
        format!("http://localhost:{port}, http://evil.example"),
        format!("http://localhost:{port} http://evil.example"),
    ] {
        lines.push(format!("{own}origin: {origin}\r\n"));
    }
    let allowed = format!("origin: http://localhost:{port}\r\n");
    for twice in [
        format!("{own}{allowed}origin: http://evil.example\r\n"),
        format!("{own}origin: http://evil.example\r\n{allowed}"),
        format!("{own}{allowed}{allowed}"),
    ] {
        lines.push(twice);
    }
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        "localhost".to_owned(),
        format!("localhost:{}", port - 1),
        format!("localhost:{port}.evil.example"),
        format!("localhost.evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost:{port}@evil.example"),
        format!("user@localhost:{port}"),
        format!("localhost.:{port}"),
        format!("localhost:{port},evil.example"),
        String::new(),
    ] {
        lines.push(format!("host: {host}\r\n"));
    }
    for (one, two) in [("localhost", "evil.example"), ("evil.example", "localhost")] {
        lines.push(format!("host: {one}:{port}\r\nhost: {two}:{port}\r\n"));
    }
    for lines in &lines {
        // An upstream may read each of these as the path of an MCP route.
        for target in ["/mcp", "/m/a?b", "//mcp", "/s/../mcp", "/mc%70", "/MCP"] {
            for method in [Method::POST, Method::GET] {
                let status = status(gateway, &method, target, lines).await;
                // A request that HTTP does not allow does not reach the upstream, either.
                let expected: &[u16] = match lines.matches("host:").count() {
                    1 => &[403],
                    _ => &[400, 403],
                };
                assert!(expected.contains(&status), "{target} {lines:?}: {status}");
            }
        }
    }
    // The gateway checks the host of an absolute target and the `Host` field.
    let foreign = format!("http://evil.example:{port}/mcp");
    let status = status(gateway, &Method::POST, &foreign, &own).await;
    assert_eq!(status, 403);
    assert_eq!(silent.requests(), 0);

    // The same requests reach the upstream with an allowed origin or without one.
    for lines in [
        own.clone(),
        format!("{own}{allowed}"),
        format!("host: 127.0.0.1:{port}\r\norigin: http://127.0.0.1:{port}\r\n"),
        format!("HOST: LOCALHOST:{port}\r\n"),
    ] {
        let mut client = connect(gateway).await;
        let request = format!("POST /mcp HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n");
        client.write(request).await;
        silent.next().await.write(sse("data: 1\n\n")).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{lines}: {head}");
    }
}
