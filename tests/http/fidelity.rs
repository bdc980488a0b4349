//! A client reads the same events with the layer as without it, by the algorithm of the standard (WHATWG HTML 9.2.6).

use crate::{
    client::Client,
    reference::Reference,
    support::{BOTH, Deny, Protocol, Upstream, get, proxy, sse_chunked},
};
use tower_sse_proxy::{Event, SseProxyLayer, intercept::Verdict};

/// Streams with details that a proxy may change by accident.
fn streams() -> Vec<Vec<u8>> {
    let large = format!("id: 1\ndata: {}\n\nid: 2\ndata: b\n\n", "x".repeat(100_000));
    let texts = [
        // An id applies until the next one. An empty id removes it, and an id with NUL is ignored.
        "id: 1\ndata: a\n\ndata: b\n\nid: 2\nid: 3\ndata: c\n\nid\ndata: d\n\nid: \ndata: e\n\nid: 4\0\ndata: f\n\n",
        // An id without an event.
        "id: 1\n\ndata: a\n\nid: 2\nevent: lost\n\ndata: b\n\nid: 3\n\n",
        // Events with empty data. Resumable streams begin with such an event.
        "id: 0\ndata:\n\nretry: 100\nid: 1\ndata: \n\ndata\n\ndata\ndata\n\nid: 2\ndata: a\n\n",
        // Names of events.
        "event: a\nevent: b\ndata: 1\n\nevent: \ndata: 2\n\nevent\ndata: 3\n\nevent: c\n\ndata: 4\n\nevent:  d \ndata: 5\n\n",
        // Spaces and colons.
        "data:none\ndata: one\ndata:  two\ndata:\ttab\ndata: \ndata:  \ndata: a:b: c\ndata: end \n\n data: x\ndata : y\n\n",
        // Line ends.
        "data: a\r\ndata: b\rdata: c\n\r\nid: 1\r\rdata: d\r\n\r\ndata: e\n\r\n\r\n\n\rdata: f\r\r",
        // A byte order mark, comments, unknown fields, and field names in other cases.
        "\u{feff}: hi\ndata: a\n: in\nunknown: x\nunknown\nData: b\nDATA: c\ndata: d\n\n:\n\u{feff}data: no field\ndata: e\n\n",
        // Reconnection times.
        "retry: 10\ndata: a\n\nretry: +5\nretry: 1e3\nretry: -1\nretry: \nretry\ndata: b\n\nretry: 020\n",
        // Characters that only some parsers treat as line ends, and UTF-8 sequences of each length.
        "data: a\u{2028}b\u{85}c\u{b}d\u{c}e\u{1f600}\u{e9}\u{20ac}\nid: \u{1f600}\nevent: \u{e9}\n\ndata: x\n\n",
        // A last event without its blank line.
        "data: a\n\nid: 1\ndata: half\n",
        &large,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Layers that read each stream and change nothing that a client reads.
fn layers() -> [SseProxyLayer; 4] {
    let layer = SseProxyLayer::default;
    let rewritten = |mut event: Event| {
        let data = event.data().into_owned();
        event.set_data(data);
        event
    };
    let deferred = |event: Event| Verdict::defer(async { Ok(event) });
    [
        layer().max_event_bytes(1 << 20),
        layer().intercept(Deny::opened),
        layer().intercept(deferred),
        layer().intercept(rewritten),
    ]
}

/// The stream in one chunk, and with a chunk for each line.
fn pieces(stream: &[u8]) -> [Vec<&[u8]>; 2] {
    let lines = stream.split_inclusive(|byte| b"\r\n".contains(byte));
    [vec![stream], lines.collect()]
}

async fn read(layer: SseProxyLayer, protocol: Protocol, pieces: &[&[u8]]) -> Client {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(layer, upstream.address).await;
    let upstream = async {
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        for piece in pieces {
            exchange.chunk(piece).await;
            tokio::task::yield_now().await;
        }
        exchange.write("0\r\n\r\n").await;
    };
    let client = async { get(protocol, proxy).await.rest().await };
    let ((), (body, ended)) = tokio::join!(upstream, client);
    assert!(ended.is_clean());
    Reference::read(&body)
}

#[tokio::test]
async fn r15_client_reads_the_same_events_whole_and_cut_at_every_line_end() {
    for stream in streams() {
        let expected = Reference::read(&stream);
        for layer in layers() {
            for pieces in pieces(&stream) {
                for protocol in BOTH {
                    let read = read(layer.clone(), protocol, &pieces).await;
                    assert_eq!(read, expected, "{}", stream.escape_ascii());
                }
            }
        }
    }
}
