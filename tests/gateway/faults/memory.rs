//! Streams that would fill the memory of a gateway without limits. Each test runs alone in a process and measures its memory.

use std::{env, fs, process::Command};

use async_compression::tokio::write::GzipEncoder;
use bytes::Bytes;
use http::Request;
use tokio::io::AsyncWriteExt;

use super::{ROUTES, guarded};
use crate::support::{BOTH, Exchange, Protocol, chunk, event, fetch, sse_chunked};

const MIB: usize = 1 << 20;

/// The maximum growth of the memory of the process.
const GROWTH: usize = 48 * MIB;

const ALONE: &str = "TEST_IS_ALONE";

/// Runs a test in a process where no other test runs, and asserts that the memory of the process grows by [`GROWTH`] at most.
fn measured(name: &str, test: impl Future<Output = ()>) {
    if env::var_os(ALONE).is_none() {
        let process = env::current_exe().unwrap();
        let mut process = Command::new(process);
        let process = process.args(["--exact", name, "--nocapture"]);
        let done = process.env(ALONE, "1").output().unwrap();
        let [out, err] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(
            done.status.success() && out.contains("1 passed"),
            "{out}{err}"
        );
        return;
    }
    // Resets the peak to the current size.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
    let growth = memory("VmHWM:") - before;
    println!("{name}: grew by {} KiB", growth >> 10);
    assert!(growth <= GROWTH, "{name}: grew by {} KiB", growth >> 10);
}

/// A size in bytes from the kernel's status of this process.
fn memory(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() << 10
}

/// The kinds of lines, by their beginning.
const LINES: [&str; 4] = ["data: ", ": ", "id: ", ""];

#[test]
fn r18_decompression_bomb_is_cut_and_takes_little_memory() {
    let name = "faults::memory::r18_decompression_bomb_is_cut_and_takes_little_memory";
    measured(name, async {
        for line in LINES {
            let bomb = bomb(line).await;
            assert!(bomb.len() <= 72 << 10, "{} bytes", bomb.len());
            for (path, protocol) in ROUTES
                .map(|path| BOTH.map(|protocol| (path, protocol)))
                .concat()
            {
                let (gateway, mut upstream) = guarded().await;
                let request = Request::get(path).header("accept-encoding", "gzip");
                let asking = fetch(protocol, gateway, request.body(Bytes::new()).unwrap());
                let asking = tokio::spawn(asking);
                let mut exchange = upstream.next().await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\
                    transfer-encoding: chunked\r\n\r\n";
                exchange
                    .write([head.as_bytes(), &chunk(&bomb)].concat())
                    .await;
                // The upstream keeps its connection open.
                let (body, ended) = asking.await.unwrap().rest().await;
                assert!(!ended.is_clean() && body.len() < MIB, "{path} {line}");
                assert!(body.ends_with(b"data: before\n\n"), "{path} {line}");
            }
        }
    });
}

/// A gzip body with an event and then a line of 64 MiB.
async fn bomb(line: &str) -> Vec<u8> {
    let mut encoder = GzipEncoder::new(Vec::new());
    let begin = format!("data: before\n\n{line}");
    encoder.write_all(begin.as_bytes()).await.unwrap();
    let (part, mut sizes) = (vec![b'x'; MIB], Vec::new());
    for _ in 0..3 {
        encoder.write_all(&part).await.unwrap();
        encoder.flush().await.unwrap();
        sizes.push(encoder.get_ref().len());
    }
    // The same compressed bytes after the same text decode to the same text again.
    let body = encoder.into_inner();
    let again = &body[sizes[1]..sizes[2]];
    [&body[..sizes[2]], &again.repeat(61)].concat()
}

/// The maximum number of bytes that the gateway and the kernel may read of an endless line.
const TAKEN: usize = 8 * MIB;

#[test]
fn r21_endless_line_is_cut_after_the_events_before_it() {
    let name = "faults::memory::r21_endless_line_is_cut_after_the_events_before_it";
    measured(name, async {
        for line in LINES {
            for (path, protocol) in ROUTES
                .map(|path| BOTH.map(|protocol| (path, protocol)))
                .concat()
            {
                let taken = endless(path, protocol, line, &[b'x'; 64 << 10]).await;
                assert!(
                    taken <= TAKEN,
                    "{path} {protocol:?} {line:?}: {taken} bytes"
                );
            }
        }
        // An event with lines without end.
        for path in ROUTES {
            let lines = b"data: line\n".repeat(6000);
            let taken = endless(path, Protocol::Http1, "", &lines).await;
            assert!(taken <= TAKEN, "{path}: {taken} bytes");
        }
    });
}

/// A head, the extension of a chunk or trailers without an end.
#[tokio::test]
async fn r21_endless_part_of_the_framing_is_cut() {
    let chunked = sse_chunked();
    let field = "x-field: 0123456789\r\n".repeat(1000);
    for (begin, endless) in [
        ("HTTP/1.1 200 OK\r\n".to_owned(), field.clone()),
        ("HTTP/1.1 200 OK\r\nx-long: ".to_owned(), "x".repeat(20_000)),
        ("HTTP/1.1 200 ".to_owned(), "x".repeat(20_000)),
        (format!("{chunked}0\r\n"), field),
        (format!("{chunked}0\r\nx-long: "), "x".repeat(20_000)),
        (format!("{chunked}1;x="), "x".repeat(20_000)),
    ] {
        for path in ["/s/a", "/r/a", "/f/a"] {
            let (gateway, mut upstream) = guarded().await;
            let request = Request::get(path).body(Bytes::new()).unwrap();
            let asking = tokio::spawn(fetch(Protocol::Http1, gateway, request));
            let mut exchange = upstream.next().await;
            exchange.write(&begin).await;
            let sent = send_until_closed(&mut exchange, endless.as_bytes()).await;
            assert!(sent <= TAKEN, "{path} {begin}: {sent} bytes");
            let answer = asking.await.unwrap();
            match answer.status {
                200 => assert!(!answer.rest().await.1.is_clean(), "{path} {begin}"),
                status => assert_eq!(status, 502, "{path} {begin}"),
            }
        }
    }
}

/// Sends `part` again and again until the gateway closes the connection. Returns the number of bytes sent.
async fn send_until_closed(exchange: &mut Exchange, part: &[u8]) -> usize {
    let mut sent = 0;
    while sent <= 2 * TAKEN && exchange.wire.try_write(part).await.is_ok() {
        sent += part.len();
    }
    sent
}

/// Sends an event and then a block without an end, until the gateway closes the connection. Returns the number of bytes sent.
async fn endless(path: &str, protocol: Protocol, begin: &str, part: &[u8]) -> usize {
    let (gateway, mut upstream) = guarded().await;
    let request = Request::get(path).body(Bytes::new()).unwrap();
    let asking = tokio::spawn(fetch(protocol, gateway, request));
    let mut exchange = upstream.next().await;
    exchange.write(sse_chunked()).await;
    exchange.chunk(event("before")).await;
    let mut answer = asking.await.unwrap();
    answer.until("data: before\n\n").await;
    exchange.chunk([begin.as_bytes(), part].concat()).await;
    let part = chunk(part);
    let sending = send_until_closed(&mut exchange, &part);
    let (taken, (body, ended)) = tokio::join!(sending, answer.rest());
    assert!(!ended.is_clean(), "{path} {protocol:?}");
    assert_eq!(body, "", "{path} {protocol:?}");
    taken
}
