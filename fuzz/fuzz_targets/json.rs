//! Any JSON in any spelling, with parts of a secret anywhere in it, over any events. An independent reader, which shares no code
//! with the crate, decides whether a client can read the secret. If it can, a window that blocks the secret cuts the stream, and
//! a window that masks it leaves nothing of it. If it cannot, every byte passes unchanged.

#![no_main]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use libfuzzer_sys::fuzz_target;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    SseProxyLayer,
    codec::{Decoder, Item},
    intercept::window::{Decision, TextSegment, TextWindow},
};

#[path = "../../tests/intercept/every_json/reader.rs"]
#[allow(dead_code)]
mod reader;
#[path = "../../tests/intercept/every_json/streams.rs"]
mod streams;

use reader::{contains, is_in, parse, readable, units};
use streams::{Choices, SECRET, stream};

fn deny(segment: &TextSegment) -> Decision {
    if segment.text.contains(SECRET) {
        Decision::Block
    } else {
        Decision::Pass
    }
}

fn mask(segment: &TextSegment) -> Decision {
    let found = segment.text.match_indices(SECRET);
    Decision::mask(found.map(|(at, found)| at..at + found.len()), "***")
}

/// Passes the stream through the window. Returns the data of the output's events, the whole output, and whether it was cut.
fn through(window: TextWindow, wire: &str) -> (Vec<String>, String, bool) {
    let window = window
        .overlap(SECRET.len() - 1)
        .max_delay(Duration::MAX)
        .max_held_bytes(usize::MAX);
    let chunk = Bytes::from(wire.to_owned());
    let upstream = service_fn(move |_: http::Request<()>| {
        let frame = Ok::<_, Infallible>(Frame::data(chunk.clone()));
        let body = StreamBody::new(futures_util::stream::iter([frame]));
        let response = http::Response::builder().header("content-type", "text/event-stream");
        async move { Ok::<_, Infallible>(response.body(body).unwrap()) }
    });
    let proxy = SseProxyLayer::default().intercept(window).layer(upstream);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (out, cut) = runtime.block_on(async {
        let response = proxy.oneshot(http::Request::new(())).await;
        let mut body = response.unwrap().into_body();
        let mut out = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => out.extend(frame.into_data().unwrap()),
                Err(_) => return (out, true),
            }
        }
        (out, false)
    });
    let out = String::from_utf8(out).unwrap();
    let mut decoder = Decoder::default();
    decoder.push(out.clone().into());
    let mut data = Vec::new();
    while let Some(piece) = decoder.next_item().unwrap() {
        if let Item::Event(event) = piece {
            data.push(event.data().into_owned());
        }
    }
    (data, out, cut)
}

fuzz_target!(|bytes: &[u8]| {
    let data = stream(&mut Choices(bytes));
    let wire: String = data
        .iter()
        .map(|data| format!("data: {data}\n\n"))
        .collect();
    let is_in = is_in(&data, &units(SECRET));
    let shows = |data: &[String]| {
        let mut texts = readable(data).into_iter();
        texts.any(|text| contains(&text, &units(SECRET)))
    };

    let (left, out, cut) = through(TextWindow::new(deny), &wire);
    assert!(wire.starts_with(&out));
    assert_eq!(cut, is_in, "{data:?}");
    assert!(!shows(&left), "{data:?}: {left:?}");
    assert!(cut || out == wire, "{data:?}");

    let (left, out, cut) = through(TextWindow::new(mask), &wire);
    assert!(!cut);
    assert!(!shows(&left), "{data:?}: {left:?}");
    assert_eq!(is_in, out != wire, "{data:?}: {left:?}");
    for (before, after) in data.iter().zip(&left) {
        let is_json = |data: &String| parse(&units(data)).is_some();
        assert!(!is_json(before) || is_json(after), "{before}: {after}");
    }
});
