//! For any settings and any stream in any chunks: a window that passes everything does not change the stream, and after a window
//! that masks a word, no string of any event contains the word.

#![no_main]

use std::{convert::Infallible, time::Duration};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use libfuzzer_sys::fuzz_target;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    Event, SseProxyLayer,
    codec::{Decoder, Item},
    intercept::{
        Json,
        window::{Decision, TextSegment, TextWindow},
    },
};

const WORD: &str = "BAD";

/// The JSON pointers of the texts in the formats of [`Text`].
const TEXTS: [&str; 5] = [
    "",
    "/choices/0/delta/content",
    "/delta/text",
    "/delta",
    "/candidates/0/content/parts/0/text",
];

#[derive(Arbitrary, Debug)]
struct Input {
    text: Vec<Text>,
    cuts: Vec<u8>,
    overlap: u8,
    size: u8,
    max_bytes: u16,
    time_ms: u8,
}

/// Pieces of wire text, which help the fuzzer to find the formats soon.
#[derive(Arbitrary, Debug)]
enum Text {
    Chat(u8, Delta),
    Block(u8, Delta),
    BlockStop(u8),
    Responses(u8, Delta),
    Candidate(u8, Delta),
    Plain(Delta),
    Done,
    Comment,
    Lines(String),
    Wire(Vec<u8>),
}

/// Parts of the word, or other text.
#[derive(Arbitrary, Debug)]
enum Delta {
    Part(u8),
    Escaped,
    Other(String),
}

impl Delta {
    fn json(&self) -> String {
        match self {
            Delta::Part(n) => ["\"B\"", "\"A\"", "\"D\"", "\"BA\"", "\"AD\"", "\"BAD\""]
                [usize::from(n % 6)]
            .to_owned(),
            Delta::Escaped => "\"\\u0042\"".to_owned(),
            Delta::Other(text) => {
                let mut json = Json::parse("\"\"").unwrap();
                json.set_str("", text).unwrap();
                json.as_ref().to_owned()
            }
        }
    }
}

impl Text {
    fn wire(&self) -> Vec<u8> {
        let data = match self {
            Text::Chat(n, delta) => {
                format!(
                    "{{\"choices\":[{{\"index\":{},\"delta\":{{\"content\":{}}}}}]}}",
                    n % 3,
                    delta.json()
                )
            }
            Text::Block(n, delta) => format!(
                "{{\"type\":\"content_block_delta\",\"index\":{},\"delta\":{{\"text\":{}}}}}",
                n % 3,
                delta.json()
            ),
            Text::BlockStop(n) => {
                format!("{{\"type\":\"content_block_stop\",\"index\":{}}}", n % 3)
            }
            Text::Responses(n, delta) => format!(
                "{{\"type\":\"response.output_text.delta\",\"output_index\":{},\"delta\":{}}}",
                n % 3,
                delta.json()
            ),
            Text::Candidate(n, delta) => format!(
                "{{\"candidates\":[{{\"index\":{},\"content\":{{\"parts\":[{{\"text\":{}}}]}}}}]}}",
                n % 3,
                delta.json()
            ),
            Text::Plain(delta) => delta.json(),
            Text::Done => "[DONE]".to_owned(),
            Text::Comment => return b": still here\n".to_vec(),
            Text::Lines(text) => return Event::new(text).as_bytes().to_vec(),
            Text::Wire(bytes) => return bytes.clone(),
        };
        format!("data: {data}\n\n").into_bytes()
    }
}

fn mask(segment: &TextSegment) -> Decision {
    let found = segment.text.match_indices(WORD);
    Decision::mask(found.map(|(at, word)| at..at + word.len()), "[-]")
}

/// Passes the chunks through a layer. Returns the output, and whether the stream was cut.
fn through(layer: &SseProxyLayer, chunks: &[Bytes]) -> (Vec<u8>, bool) {
    let chunks = chunks.to_vec();
    let upstream = service_fn(move |_: http::Request<()>| {
        let frames = chunks
            .clone()
            .into_iter()
            .map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let response = http::Response::builder().header("content-type", "text/event-stream");
        async move { Ok::<_, Infallible>(response.body(body).unwrap()) }
    });
    let proxy = layer.layer(upstream);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut body = proxy
            .oneshot(http::Request::new(()))
            .await
            .unwrap()
            .into_body();
        let mut out = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => out.extend(frame.into_data().unwrap()),
                Err(_) => return (out, true),
            }
        }
        (out, false)
    })
}

fuzz_target!(|input: Input| {
    let mut rest: Vec<u8> = input.text.iter().flat_map(Text::wire).collect();
    let mut chunks = Vec::new();
    for cut in input.cuts {
        let after = rest.split_off(usize::from(cut).min(rest.len()));
        chunks.push(Bytes::from(rest));
        rest = after;
    }
    chunks.push(rest.into());

    let set = |window: TextWindow| {
        window
            .overlap(usize::from(input.overlap))
            .min_batch(usize::from(input.size))
            .max_held_bytes(usize::from(input.max_bytes))
            .max_delay(Duration::from_millis(u64::from(input.time_ms)))
    };
    // A byte order mark of another encoding cuts the stream with any interceptor.
    let (all, is_foreign) = through(
        &SseProxyLayer::default().intercept(|event: Event| event),
        &chunks,
    );
    let passing = set(TextWindow::new(|_: &TextSegment| Decision::Pass)).fail_open();
    assert_eq!(
        through(&SseProxyLayer::default().intercept(passing), &chunks),
        (all.clone(), is_foreign)
    );
    let strict = set(TextWindow::new(|_: &TextSegment| Decision::Pass));
    let (out, cut) = through(&SseProxyLayer::default().intercept(strict), &chunks);
    assert!(all.starts_with(&out) && (cut || out == all));

    let masking = set(TextWindow::new(mask));
    let (out, _) = through(&SseProxyLayer::default().intercept(masking), &chunks);
    let mut decoder = Decoder::default();
    decoder.push(out.into());
    while let Some(Item::Event(event)) = decoder.next_item().unwrap_or_default() {
        let data = event.data();
        let Ok(json) = Json::parse(&*data) else {
            assert!(!data.contains(WORD), "{data}");
            continue;
        };
        for pointer in TEXTS {
            let text = json.pointer(pointer).and_then(|text| text.as_str());
            assert!(!text.unwrap_or_default().contains(WORD), "{data}");
        }
    }
});
