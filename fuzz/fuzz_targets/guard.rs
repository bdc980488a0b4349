//! An interceptor drops every block with a word. For any upstream bytes in any chunks, no client can read the word, and the body
//! neither panics nor stays pending forever.

#![no_main]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use arbitrary::Arbitrary;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Body, Frame};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse_proxy::{
    ErrorKind, Event, SseProxyLayer,
    codec::Block,
    intercept::{Interceptor, StreamHead, Verdict},
};

const WORD: &[u8] = b"BAD";

#[derive(Arbitrary, Debug)]
struct Input {
    /// Pieces of wire text, which help the fuzzer to find the word and the grammar soon.
    text: Vec<Text>,
    cuts: Vec<u8>,
    strip_comments: bool,
}

#[derive(Arbitrary, Debug)]
enum Text {
    Word,
    Data,
    Id,
    EventType,
    Retry,
    Comment,
    Lf,
    Cr,
    Bom,
    Bytes(Vec<u8>),
}

impl Text {
    fn bytes(&self) -> &[u8] {
        match self {
            Text::Word => WORD,
            Text::Data => b"data:",
            Text::Id => b"id: ",
            Text::EventType => b"event",
            Text::Retry => b"retry:",
            Text::Comment => b":",
            Text::Lf => b"\n",
            Text::Cr => b"\r",
            Text::Bom => "\u{feff}".as_bytes(),
            Text::Bytes(bytes) => bytes,
        }
    }
}

struct Deny;

fn found(text: &[u8]) -> bool {
    text.windows(WORD.len()).any(|window| window == WORD)
}

impl Interceptor for Deny {
    fn event(&mut self, event: Event) -> Verdict {
        let bad = found(event.data().as_bytes()) || found(event.as_bytes());
        (!bad).then_some(event).into()
    }

    fn block(&mut self, block: Block) -> Verdict {
        (!found(block.as_bytes())).then_some(block).into()
    }
}

struct Chunks(VecDeque<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}

fuzz_target!(|input: Input| {
    let mut rest: Vec<u8> = input.text.iter().flat_map(Text::bytes).copied().collect();
    let mut chunks = VecDeque::new();
    for cut in input.cuts {
        let after = rest.split_off(usize::from(cut).min(rest.len()));
        chunks.push_back(Bytes::from(rest));
        rest = after;
    }
    chunks.push_back(rest.into());

    let chunks = Arc::new(Mutex::new(Some(chunks)));
    let upstream = service_fn(move |_: http::Request<()>| {
        let chunks = Chunks(chunks.lock().unwrap().take().unwrap());
        let response = http::Response::builder().header("content-type", "text/event-stream");
        async move { Ok::<_, Infallible>(response.body(chunks).unwrap()) }
    });
    let proxy = SseProxyLayer::default()
        .intercept(|_: &StreamHead<'_>| Some(Deny))
        .strip_comments(input.strip_comments)
        .layer(upstream);
    let response = proxy.oneshot(http::Request::new(())).now_or_never();
    let mut body = Box::pin(response.unwrap().unwrap().into_body());

    let mut out = Vec::new();
    let mut polls = 0;
    // A body that fails waits before its error. The clock is paused, so that the wait takes no time.
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let error = runtime.unwrap().block_on(poll_fn(|cx| {
        loop {
            polls += 1;
            assert!(polls < 100_000, "the body did not end after 100,000 polls");
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => out.extend(frame.into_data().unwrap()),
                Some(Err(error)) => break Poll::Ready(Some(error)),
                None => break Poll::Ready(None),
            }
        }
    }));
    // Only a byte order mark of another encoding fails a body that an interceptor can read.
    assert!(error.is_none_or(|error| error.kind() == ErrorKind::NotUtf8));
    // The output is valid UTF-8, so clients that replace, skip or reject ill-formed text read the same.
    assert!(std::str::from_utf8(&out).is_ok());
    assert!(!found(&out));
});
