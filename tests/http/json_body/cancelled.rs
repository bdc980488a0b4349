//! The head of the response leaves after the verdict, and a client that disconnects cancels the upstream.

use std::sync::Mutex;

use tokio::sync::{mpsc, oneshot};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, StreamHead, Verdict},
};

use super::inspecting;
use crate::support::{BOTH, Note, Upstream, connect, get, proxy, soon, witness};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n";

#[tokio::test]
async fn head_leaves_after_the_verdict() {
    for protocol in BOTH {
        let mut upstream = Upstream::start().await;
        let (asked, mut question) = mpsc::unbounded_channel();
        let ask = move |event: Event| {
            let (answer, verdict) = oneshot::channel();
            asked.send(answer).unwrap();
            Verdict::defer(async move {
                verdict.await?;
                Ok(event)
            })
        };
        let proxy = proxy(inspecting().intercept(ask), upstream.address).await;
        let client = tokio::spawn(get(protocol, proxy));
        let mut exchange = upstream.next().await;
        exchange.write(HEAD).await;
        exchange.write("{\"a\"").await;
        exchange.write(":1}").await;
        let verdict: oneshot::Sender<()> = soon(question.recv()).await.unwrap();
        // The layer has the whole body, and the client nothing.
        assert!(!client.is_finished());
        verdict.send(()).unwrap();
        let answer = soon(client).await.unwrap();
        assert_eq!(answer.rest().await.0, "{\"a\":1}");
    }
}

#[tokio::test]
async fn client_disconnect_cancels_the_upstream_and_ends_the_interceptors() {
    for rest in ["{\"a\"", "{\"a\":1}"] {
        let mut upstream = Upstream::start().await;
        let (witness, mut notes) = witness();
        let (dropped, was_dropped) = oneshot::channel::<()>();
        let guard = Mutex::new(Some(dropped));
        let never = move |_: Event| {
            let guard = guard.lock().unwrap().take();
            Verdict::defer(async move {
                let _guard = guard;
                std::future::pending::<Result<Event, _>>().await
            })
        };
        let (opened, mut opens) = mpsc::unbounded_channel();
        let open = move |_: &StreamHead<'_>| {
            opened.send(()).unwrap();
            None::<Box<dyn Interceptor>>
        };
        let layer = inspecting().intercept(witness).intercept(never);
        let layer = layer.intercept(open);
        let proxy = proxy(layer, upstream.address).await;
        let mut client = connect(proxy).await;
        client.write("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let mut exchange = upstream.next().await;
        exchange.write(HEAD).await;
        exchange.write(rest).await;
        soon(opens.recv()).await.unwrap();
        let is_whole = rest.ends_with('}');
        if is_whole {
            assert_eq!(notes.next().await, Note::Event(rest.to_owned()));
        }
        drop(client);
        soon(exchange.closed()).await;
        assert_eq!(notes.until_dropped().await, [Note::ClientGone]);
        if is_whole {
            assert!(soon(was_dropped).await.is_err());
        }
    }
}
