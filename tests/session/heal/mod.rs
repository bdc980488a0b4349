//! Healing of MCP sessions, over sockets: the server loses its sessions in the middle of a conversation.

mod failing;
mod server;
mod sharing;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http::Method;
use http_body_util::combinators::UnsyncBoxBody;
use tower_sse_proxy::{
    Event, Policy, SseProxyLayer,
    intercept::{Interceptor, StreamHead, Verdict},
    observe::StreamObserver,
    profile::{
        Mcp,
        heal::{HealLayer, Healed, is_safe},
    },
    replay::Replay,
    session::MemoryStore,
};

use self::server::{Body, Client, INITIALIZE, Opening, Server, call, gateway};

fn mcp() -> SseProxyLayer {
    with_policy(Policy::default())
}

fn with_policy(policy: Policy) -> SseProxyLayer {
    let mcp = Mcp::new(policy);
    SseProxyLayer::new(MemoryStore::default()).policy(move |request, _| mcp.policy(request))
}

fn heal() -> HealLayer<Body> {
    HealLayer::new(UnsyncBoxBody::new)
}

/// A server, and a client with a session.
async fn start(heal: HealLayer<Body>) -> (Server, Client) {
    let server = Server::start().await;
    let client = Client::open(gateway(mcp(), heal, &server).await).await;
    assert_eq!(
        server.take(),
        ["initialize", "notifications/initialized UP-1"]
    );
    (server, client)
}

#[tokio::test]
async fn safe_requests_are_repeated_and_the_client_keeps_its_id() {
    let (server, client) = start(heal()).await;
    let batch = format!("[{},{}]", call("ping"), call("tools/list"));
    let bodies = [
        "ping",
        "tools/list",
        "resources/templates/list",
        "resources/read",
        "prompts/get",
        "completion/complete",
    ]
    .map(|rpc| (rpc, call(rpc)));
    let bodies = bodies.into_iter().chain([("ping", batch)]);
    for (n, (rpc, body)) in bodies.enumerate() {
        server.forget();
        let answer = client.post(&body).await;
        assert_eq!(answer.status, 200, "{body}");
        assert_eq!(answer.header("mcp-session-id"), Some(&*client.session));
        let repeated = server.seen().last().unwrap().clone();
        assert_eq!(repeated.body, body);
        assert_eq!(repeated.header("mcp-protocol-version"), Some("2025-06-18"));
        let (old, new) = (n + 1, n + 2);
        let expected = [
            format!("{rpc} UP-{old}"),
            "initialize".into(),
            format!("notifications/initialized UP-{new}"),
            format!("{rpc} UP-{new}"),
        ];
        assert_eq!(server.take(), expected);
        // The session continues as any other.
        assert_eq!(client.call("tools/call").await.status, 200);
        assert_eq!(server.take(), [format!("tools/call UP-{new}")]);
    }
    assert_eq!(client.delete().await.status, 200);
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.take(), ["DELETE UP-8"]);
}

#[tokio::test]
async fn initialize_is_repeated_byte_for_byte_with_the_headers_of_the_owner() {
    let (server, client) = start(heal()).await;
    server.forget();
    let traced = client.request(Method::POST, "x").header("x-request", "7");
    assert_eq!(
        server::send(client.gateway, traced, &call("ping"))
            .await
            .status,
        200
    );
    let seen = server.seen();
    let (initialize, initialized) = (&seen[1], &seen[2]);
    assert_eq!(initialize.body, INITIALIZE);
    assert_eq!(initialize.header("content-type"), Some("application/json"));
    assert_eq!(initialize.header("mcp-protocol-version"), None);
    let initialized_body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(initialized.body, initialized_body);
    assert_eq!(
        initialized.header("mcp-protocol-version"),
        Some("2025-06-18")
    );
    for request in [initialize, initialized] {
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.header("authorization"), Some("Bearer of-alice"));
        assert_eq!(request.header("x-tenant"), Some("a"));
        assert_eq!(request.header("x-request"), None);
        let accept = Some("application/json, text/event-stream");
        assert_eq!(request.header("accept"), accept);
    }
}

#[tokio::test]
async fn get_stream_is_repeated() {
    let (server, client) = start(heal()).await;
    server.forget();
    let mut answer = client.get().await;
    assert_eq!(answer.status, 200);
    answer.expect(": open\n\n").await;
    let expected = [
        "GET UP-1",
        "initialize",
        "notifications/initialized UP-2",
        "GET UP-2",
    ];
    assert_eq!(server.take(), expected);
}

#[tokio::test]
async fn only_a_resumed_get_stream_is_repeated() {
    for opened_by in [Method::GET, Method::POST] {
        let server = Server::start().await;
        let layer = with_policy(Policy::default().replay(Replay::default()));
        let client = Client::open(gateway(layer, heal(), &server).await).await;
        server.set_polling();
        let answer = match opened_by {
            Method::GET => client.get().await,
            _ => client.call("tools/call").await,
        };
        let (text, _) = answer.rest().await;
        let text = String::from_utf8_lossy(&text);
        let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        let id = ids.next_back().expect("an event with an id");
        server.take();
        server.forget();
        let resume = client.request(Method::GET, "").header("last-event-id", id);
        let answer = server::send(client.gateway, resume, "").await;
        let lost = &server.seen()[0];
        assert_eq!(lost.header("last-event-id"), Some("e1"), "{opened_by}");
        let repeated = server.count("GET UP-2");
        let expected = match opened_by {
            Method::GET => (200, 1),
            _ => (404, 0),
        };
        assert_eq!((answer.status, repeated), expected, "{opened_by}");
        assert_eq!(client.get().await.status, 200, "{opened_by}");
        assert_eq!(server.count("initialize"), 1, "{opened_by}");
    }
}

#[tokio::test]
async fn unsafe_requests_are_not_repeated_but_heal_the_session() {
    let unsafe_batch = format!("[{},{}]", call("ping"), call("tools/call"));
    let bodies = [
        call("tools/call"),
        call("resources/subscribe"),
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#.into(),
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.into(),
        r#"{"method":"ping","Method":"tools/call"}"#.into(),
        unsafe_batch,
    ];
    for body in bodies {
        let (server, client) = start(heal()).await;
        server.forget();
        assert_eq!(client.post(&body).await.status, 404, "{body}");
        let seen = server.seen();
        let copies = seen.iter().filter(|seen| seen.body == body).count();
        assert_eq!((seen.len(), copies), (3, 1), "{body}");
        server.take();
        assert_eq!(client.call("tools/call").await.status, 200);
        assert_eq!(server.take(), ["tools/call UP-2"]);
    }
}

#[tokio::test]
async fn request_larger_than_the_limit_is_not_repeated() {
    let large = format!(r#"{{"method":"ping","params":"{}"}}"#, "x".repeat(2000));
    let (server, client) = start(heal().max_body_bytes(2000)).await;
    server.forget();
    assert_eq!(client.post(&large).await.status, 404);
    assert_eq!(server.seen()[0].body, large);
    assert_eq!(server.take().len(), 3);
    assert_eq!(client.call("ping").await.status, 200);
    // Without room, neither the request nor `initialize` is held.
    for small in [heal().max_body_bytes(100), heal().max_bytes(100)] {
        let (server, client) = start(small).await;
        server.forget();
        assert_eq!(client.call("ping").await.status, 404);
        assert_eq!(server.take(), ["ping UP-1"]);
    }
}

/// RFC 10036: an intermediary must not wait for the whole body.
#[tokio::test]
async fn request_that_asks_to_be_forwarded_as_it_arrives_is_not_repeated() {
    let (server, client) = start(heal()).await;
    server.forget();
    let request = client
        .request(Method::POST, "x")
        .header("incremental", "?1");
    let answer = server::send(client.gateway, request, &call("ping")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(server.count("ping UP-1"), 1);
    assert_eq!(client.call("ping").await.status, 200);
    assert_eq!(server.count("ping UP-2"), 1);
}

#[tokio::test]
async fn predicate_of_the_user_allows_other_requests_and_statuses() {
    let allows = |request: &http::request::Parts, body: &[u8]| {
        is_safe(request, body) || request.headers.contains_key("x-twice")
    };
    let (server, client) = start(heal().repeat_if(allows)).await;
    server.forget();
    let marked = client.request(Method::POST, "x").header("x-twice", "1");
    let answer = server::send(client.gateway, marked, &call("tools/call")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.count("tools/call UP-2"), 1);

    let never = heal().lost_when(|response| response.status == 410);
    let (server, client) = start(never).await;
    server.forget();
    assert_eq!(client.call("ping").await.status, 404);
    assert_eq!(server.take(), ["ping UP-1"]);
}

#[tokio::test]
async fn initialize_answered_with_an_open_event_stream_is_read_up_to_its_result() {
    let (server, client) = start(heal()).await;
    server.set_opening(Opening::Stream);
    for _ in 0..2 {
        server.forget();
        assert_eq!(client.call("ping").await.status, 200);
    }
    assert_eq!(server.count("initialize"), 2);
}

#[tokio::test]
async fn upstream_may_give_the_same_id_again() {
    let server = Server::start().await;
    server.set_fixed_id("UP-X");
    let client = Client::open(gateway(mcp(), heal(), &server).await).await;
    for _ in 0..3 {
        server.forget();
        let answer = client.call("ping").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("mcp-session-id"), Some(&*client.session));
    }
    assert_eq!(server.count("initialize"), 4);
}

#[tokio::test]
async fn hook_learns_of_lost_subscriptions() {
    let healed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&healed);
    let hook = move |healed: &Healed| {
        let session = healed.session().as_str().to_owned();
        seen.lock()
            .unwrap()
            .push((session, healed.had_subscriptions()));
        panic!("a panic in the hook has no effect");
    };
    let (server, client) = start(heal().on_healed(hook)).await;
    let session = || client.session.clone();
    assert_eq!(client.call("resources/subscribe").await.status, 200);
    for expected in [true, false] {
        server.forget();
        assert_eq!(client.call("ping").await.status, 200);
        assert_eq!(healed.lock().unwrap().pop(), Some((session(), expected)));
    }
    assert!(healed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn observer_learns_of_each_healing_once() {
    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);
    impl StreamObserver for Count {
        fn healed(&self, _: &Healed) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("a panic in an observer has no effect");
        }
    }
    let count = Count::default();
    let layer = mcp().observe(count.clone());
    let server = Server::start().await;
    let client = Client::open(gateway(layer, heal(), &server).await).await;
    for expected in [1, 2] {
        server.forget();
        let answers = tokio::join!(client.call("ping"), client.call("tools/list"));
        assert_eq!((answers.0.status, answers.1.status), (200, 200));
        assert_eq!(count.0.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn interceptors_find_the_healing_in_the_response() {
    struct Pass;
    impl Interceptor for Pass {
        fn event(&mut self, event: Event) -> Verdict {
            event.into()
        }
    }
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let policy = Policy::default().intercept(move |head: &StreamHead<'_>| {
        if head.response.extensions.get::<Healed>().is_some() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        Some(Pass)
    });
    let server = Server::start().await;
    let client = Client::open(gateway(with_policy(policy), heal(), &server).await).await;
    client.get().await.expect(": open\n\n").await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    server.forget();
    client.get().await.expect(": open\n\n").await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
