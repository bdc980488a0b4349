//! A balancer for two upstreams with separate sessions: each session stays on the upstream that opened it.
//!
//! ```sh
//! cargo run --example balance
//! ```

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    session::{MemoryStore, SessionMapping, UpstreamKey},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let turn = Arc::new(AtomicUsize::new(0));
    let balancer = service_fn(move |request: Request<()>| {
        // The layer adds the key of the session's upstream. Requests without a session go to the upstreams in turn.
        let key = match request.extensions().get::<UpstreamKey>() {
            Some(key) => key.clone(),
            None => UpstreamKey::new(["first", "second"][turn.fetch_add(1, Ordering::Relaxed) % 2]),
        };
        async move {
            let mut response = upstream(&key, request.headers());
            // If this response opens a session, the layer binds the session to this key.
            response.extensions_mut().insert(key);
            Ok::<_, Infallible>(response)
        }
    });
    let proxy = SseProxyLayer::new(MemoryStore::default())
        .sessions(SessionMapping::header(HeaderName::from_static("x-session")))
        .layer(balancer);

    let mut sessions = Vec::new();
    for _ in 0..4 {
        let response = proxy.clone().oneshot(Request::new(())).await?;
        sessions.push(response.headers()["x-session"].clone());
        print(response).await?;
    }
    for session in sessions.iter().rev() {
        let request = Request::builder().header("x-session", session).body(())?;
        print(proxy.clone().oneshot(request).await?).await?;
    }
    Ok(())
}

/// Stands for one of several servers.
fn upstream(key: &UpstreamKey, headers: &HeaderMap) -> Response<Full<Bytes>> {
    static OPENED: AtomicUsize = AtomicUsize::new(0);
    let name = key.as_str();
    let (session, text) = match headers.get("x-session") {
        Some(known) => (known.clone(), format!("{name}: known session {known:?}\n")),
        None => {
            let new = format!("{name}-{}", OPENED.fetch_add(1, Ordering::Relaxed));
            let text = format!("{name}: opened session {new:?}\n");
            (new.parse().expect("valid header value"), text)
        }
    };
    let mut response = Response::new(text.into());
    response.headers_mut().insert("x-session", session);
    response
}

async fn print<B>(response: Response<B>) -> Result<(), B::Error>
where
    B: http_body::Body<Data = Bytes>,
{
    let (head, body) = response.into_parts();
    let text = body.collect().await?.to_bytes();
    print!(
        "{:?} -> {}",
        head.headers["x-session"],
        String::from_utf8_lossy(&text)
    );
    Ok(())
}
