//! Measures the cost of splitting a stream into events: this crate's decoder, other decoders, and the search for line ends alone.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin decoder
//! ```
//!
//! With a part of a name as an argument, it measures only streams with that name. With `instructions`, it counts instructions with
//! valgrind instead of measuring time; the counts are the same in every run.

use std::{
    convert::Infallible,
    env,
    error::Error,
    process::Command,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::{Stream as AsyncStream, StreamExt, stream};
use sse_core::{SseDecoder, SseEvent};
use sse_stream::SseByteStream;
use tower_sse_proxy::{
    Event,
    codec::{Block, Decoder, Item},
};
use tower_sse_proxy_benches::{
    rounds::nanos,
    streams::{self, Stream},
};

type Contender = (&'static str, fn(&[Bytes]) -> usize);

/// The peer that handles every edge case of the standard correctly.
const CORRECT_PEER: &str = "sse-core";

const CONTENDERS: [Contender; 6] = [
    ("line ends", line_ends),
    ("boundaries", boundaries),
    ("all fields", all_fields),
    (CORRECT_PEER, sse_core),
    ("sse-stream", sse_stream),
    ("eventsource-stream", eventsource_stream),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => time(""),
        ["instructions"] => instructions()?,
        [name] => time(name),
        // The program that valgrind runs.
        [stream, contender, times] => {
            let stream = &streams::all()[stream.parse::<usize>()?];
            let (_, contender) = CONTENDERS[contender.parse::<usize>()?];
            (0..times.parse()?).for_each(|_: usize| assert!(contender(&stream.chunks) > 0));
        }
        _ => return Err("usage: decoder [PART_OF_A_NAME | instructions]".into()),
    }
    Ok(())
}

fn time(name: &str) {
    println!(
        "ns per event (allocations per event); x sse-core: the speedup of `boundaries` and `all fields` over sse-core\n"
    );
    head("x sse-core");
    for stream in streams::all()
        .into_iter()
        .filter(|stream| stream.name.contains(name))
    {
        let passes = ((4 << 20) / stream.bytes()).clamp(1, 20);
        let run = |contender: usize| {
            let (chunks, (_, contender)) = (&stream.chunks, CONTENDERS[contender]);
            move || (0..passes).map(|_| contender(chunks)).sum::<usize>()
        };
        // The last contender takes quadratic time: a minute for large events.
        let count = CONTENDERS.len() - usize::from(stream.bytes() / stream.events > 60_000);
        let runs: Vec<_> = (0..count).map(run).collect();
        let runs: Vec<_> = runs
            .iter()
            .map(|run| ("", run as &dyn Fn() -> usize))
            .collect();
        let times = nanos(&runs, 15);
        let per_event = |n: f64| n / (passes * stream.events) as f64;
        let cells = runs.iter().zip(&times).map(|((_, run), time)| {
            let allocations = measure(|| assert!(run() > 0)).count_total as f64;
            format!("{:.0} ({:.2})", per_event(*time), per_event(allocations))
        });
        let peer = CONTENDERS
            .iter()
            .position(|(name, _)| *name == CORRECT_PEER);
        let ratio = |n: usize| peer.map_or(f64::NAN, |peer| times[peer] / times[n]);
        let ratios = format!("{:.1} / {:.1}", ratio(1), ratio(2));
        let speed = |n: usize| format!("{:.1}", (passes * stream.bytes()) as f64 / times[n]);
        row(&stream, cells, &ratios);
        println!(
            "{:26} GB/s: boundaries {}, all fields {}",
            "",
            speed(1),
            speed(2)
        );
    }
}

fn instructions() -> Result<(), Box<dyn Error>> {
    println!("instructions per event\n");
    head("");
    for (s, stream) in streams::all().iter().enumerate().take(5) {
        let mut cells = Vec::new();
        for contender in 0..CONTENDERS.len() - 1 {
            // The difference of two counts excludes the instructions of the process start.
            let once = count(s, contender, 1)?;
            let difference = count(s, contender, 3)? - once;
            cells.push(format!("{}", difference / 2 / stream.events as u64));
        }
        row(stream, cells.into_iter(), "");
    }
    Ok(())
}

/// Runs a contender in a new process and counts its instructions.
fn count(stream: usize, contender: usize, times: usize) -> Result<u64, Box<dyn Error>> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args([stream, contender, times].map(|n| n.to_string()))
        .output()
        .map_err(|error| format!("cannot run valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    let count = text.split("Collected : ").nth(1);
    let count = count.and_then(|rest| rest.split_whitespace().next());
    Ok(count.ok_or_else(|| text.clone())?.parse()?)
}

fn head(last: &str) {
    print!("{:26}", "");
    CONTENDERS.iter().for_each(|(name, _)| print!("{name:>20}"));
    println!("{last:>14}");
}

fn row(stream: &Stream, cells: impl Iterator<Item = String>, last: &str) {
    print!("{:26}", stream.name);
    let cells: Vec<String> = cells.collect();
    (0..CONTENDERS.len()).for_each(|n| print!("{:>20}", cells.get(n).map_or("-", String::as_str)));
    println!("{last:>14}");
}

/// The minimal work of any decoder.
fn line_ends(chunks: &[Bytes]) -> usize {
    let found = chunks
        .iter()
        .map(|chunk| memchr::memchr2_iter(b'\n', b'\r', chunk).count());
    found.sum()
}

fn boundaries(chunks: &[Bytes]) -> usize {
    let size = |block: &Block| block.as_bytes().len();
    decode(Decoder::default(), chunks, |event| size(event), size)
}

fn all_fields(chunks: &[Bytes]) -> usize {
    let names = |block: &Block| {
        let event = block.event_field().map_or(0, |event| event.len());
        event + block.id().map_or(0, |id| id.len())
    };
    decode(
        Decoder::default().check_utf8(true),
        chunks,
        |event| names(event) + event.data().len(),
        |block| names(block) + block.comments().map(|comment| comment.len()).sum::<usize>(),
    )
}

fn decode(
    mut decoder: Decoder,
    chunks: &[Bytes],
    event: impl Fn(&Event) -> usize,
    block: impl Fn(&Block) -> usize,
) -> usize {
    let mut sum = 0;
    for chunk in chunks {
        decoder.push(chunk.clone());
        while let Ok(Some(piece)) = decoder.next_item() {
            match piece {
                Item::Event(read) => {
                    sum += event(&read);
                    decoder.recycle(read);
                }
                Item::Block(read) => {
                    sum += block(&read);
                    decoder.recycle(read);
                }
                _ => {}
            }
        }
    }
    sum
}

fn sse_core(chunks: &[Bytes]) -> usize {
    let mut decoder = SseDecoder::new();
    let mut sum = 1;
    for chunk in chunks {
        let mut chunk = chunk.clone();
        while let Some(event) = decoder.next(&mut chunk) {
            if let Ok(SseEvent::Message(event)) = event {
                sum += event.data.len() + event.event.len();
            }
        }
    }
    sum
}

fn sse_stream(chunks: &[Bytes]) -> usize {
    let events =
        SseByteStream::new(stream::iter(chunks).map(|chunk| Ok::<_, Infallible>(chunk.clone())));
    drain(events.map(|event| event.map_or(0, |event| event.data.map_or(1, |data| data.len()))))
}

fn eventsource_stream(chunks: &[Bytes]) -> usize {
    let chunks = stream::iter(chunks).map(|chunk| Ok::<_, Infallible>(chunk.clone()));
    drain(
        chunks
            .eventsource()
            .map(|event| event.map_or(0, |event| event.data.len())),
    )
}

/// Polls a stream that is always ready to its end, and sums its items.
fn drain(events: impl AsyncStream<Item = usize>) -> usize {
    let mut events = std::pin::pin!(events);
    let mut sum = 1;
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(more)) = events.as_mut().poll_next(&mut cx) {
        sum += more;
    }
    sum
}
