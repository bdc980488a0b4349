//! Event streams with a `Content-Encoding`: the layer decodes, inspects and streams them, or answers 502.

use crate::support::{
    BOTH, Deny, Protocol, SECRET, Script, Step, Upstream, event_stream, get, proxy, readable,
    respond, rest, sse_chunked,
};
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tower_sse_proxy::{ErrorKind, SseBody, SseProxyLayer};

fn guarded() -> SseProxyLayer {
    SseProxyLayer::default().intercept(Deny::opened)
}

fn around(block: &[u8]) -> Vec<u8> {
    [b"data: before\n\n", block, b"data: after\n\n"].concat()
}

async fn compressed<E: AsyncWrite + Unpin>(
    plain: &[u8],
    encoder: impl Fn(Vec<u8>) -> E,
    into: impl Fn(E) -> Vec<u8>,
) -> Vec<u8> {
    let mut encoder = encoder(Vec::new());
    encoder.write_all(plain).await.unwrap();
    encoder.shutdown().await.unwrap();
    into(encoder)
}

pub async fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
    match coding.to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => compressed(plain, GzipEncoder::new, GzipEncoder::into_inner).await,
        "deflate" => compressed(plain, ZlibEncoder::new, ZlibEncoder::into_inner).await,
        "br" => compressed(plain, BrotliEncoder::new, BrotliEncoder::into_inner).await,
        "zstd" => compressed(plain, ZstdEncoder::new, ZstdEncoder::into_inner).await,
        _ => plain.to_vec(),
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{head}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn coded_stream_is_decoded_and_inspected() {
    let plain = around(b"data: hunter2\n\n");
    for coding in [
        "gzip", "GZIP", "x-gzip", "X-GZip", "deflate", "br", "Br", "zstd", "identity",
    ] {
        let body = coded(coding, &plain).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: {coding}"
        );
        let upstream = Upstream::answering(answer(&head, &body)).await;
        let proxy = proxy(guarded(), upstream).await;
        for protocol in BOTH {
            let answer = get(protocol, proxy).await;
            assert_eq!(answer.header("content-encoding"), None, "{coding}");
            let (body, ended) = answer.rest().await;
            assert_eq!(body, "data: before\n\ndata: after\n\n", "{coding}");
            assert!(ended.is_clean());
        }
    }
}

#[tokio::test]
async fn second_gzip_member_is_decoded() {
    let first = coded("gzip", b"data: before\n\ndata: hun").await;
    let second = coded("gzip", b"ter2\n\ndata: after\n\n").await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip";
    let upstream = Upstream::answering(answer(head, &[first, second].concat())).await;
    let proxy = proxy(guarded(), upstream).await;
    let (body, _) = get(Protocol::Http1, proxy).await.rest().await;
    assert_eq!(body, "data: before\n\ndata: after\n\n");
}

#[tokio::test]
async fn body_in_another_coding_than_declared_is_cut_before_its_first_byte() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip";
    let upstream = Upstream::answering(answer(head, &around(b"data: hunter2\n\n"))).await;
    let proxy = proxy(guarded(), upstream).await;
    for protocol in BOTH {
        let (body, ended) = get(protocol, proxy).await.rest().await;
        assert_eq!(body, "");
        assert!(!ended.is_clean());
    }
}

#[tokio::test]
async fn stream_that_cannot_be_decoded_is_rejected_with_502() {
    let plain = around(b"data: hunter2\n\n");
    let twice = coded("gzip", &coded("gzip", &plain).await).await;
    let wide: Vec<u8> = std::str::from_utf8(&plain)
        .unwrap()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let sse = "content-type: text/event-stream";
    let ok = "HTTP/1.1 200 OK";
    for (head, body) in [
        (
            format!("{ok}\r\n{sse}\r\ncontent-encoding: gzip, gzip"),
            &twice,
        ),
        (
            format!("{ok}\r\n{sse}\r\ncontent-encoding: gzip\r\ncontent-encoding: gzip"),
            &twice,
        ),
        (
            format!("{ok}\r\n{sse}\r\ncontent-encoding: compress"),
            &plain,
        ),
        (
            format!("{ok}\r\n{sse}\r\ncontent-encoding: aws-chunked"),
            &plain,
        ),
        (format!("{ok}\r\n{sse}; charset=utf-16"), &wide),
        (format!("{ok}\r\n{sse}; Charset=\"UTF-16LE\""), &wide),
        (format!("{ok}\r\n{sse}; charset*=utf-8''utf-16le"), &wide),
        (
            format!("{ok}\r\n{sse}; charset*0=utf-; charset*1=16le"),
            &wide,
        ),
        (format!("{ok}\r\n{sse}; \"charset\"=utf-16le"), &wide),
        (format!("{ok}\r\n{sse} charset=utf-16le"), &wide),
        (
            format!("{ok}\r\n{sse}; charset=utf-8, text/plain; charset=utf-7"),
            &plain,
        ),
        (
            format!("HTTP/1.1 206 Partial Content\r\n{sse}\r\ncontent-range: bytes 0-9/20"),
            &plain,
        ),
    ] {
        let upstream = Upstream::answering(answer(&head, body)).await;
        let proxy = proxy(guarded(), upstream).await;
        for protocol in BOTH {
            let answer = get(protocol, proxy).await;
            assert_eq!(answer.status, 502, "{head}");
            assert_eq!(
                answer.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
            assert_eq!(answer.header("content-range"), None);
            assert_eq!(answer.header("content-encoding"), None);
            let (body, ended) = answer.rest().await;
            assert!(!readable(&body, SECRET), "{head}");
            assert!(ended.is_clean());
        }
    }
}

async fn check_events_arrive_one_by_one<E: AsyncWrite + Unpin>(
    coding: &str,
    mut encoder: E,
    sent: impl Fn(&mut E) -> &mut Vec<u8>,
) {
    let mut upstream = Upstream::start().await;
    let proxy = proxy(guarded(), upstream.address).await;
    let head = async {
        let mut exchange = upstream.next().await;
        let coding = format!("\r\ncontent-encoding: {coding}\r\n\r\n");
        exchange
            .write(sse_chunked().replace("\r\n\r\n", &coding))
            .await;
        exchange
    };
    let (mut exchange, mut answer) = tokio::join!(head, get(BOTH[0], proxy));
    for text in ["data: 1\n\n", "data: 2\n\n", ": comment\n"] {
        encoder.write_all(text.as_bytes()).await.unwrap();
        encoder.flush().await.unwrap();
        exchange.chunk(std::mem::take(sent(&mut encoder))).await;
        answer.expect(text).await;
    }
    encoder.shutdown().await.unwrap();
    exchange.chunk(std::mem::take(sent(&mut encoder))).await;
    exchange.write("0\r\n\r\n").await;
    assert!(answer.rest().await.1.is_clean(), "{coding}");
}

#[tokio::test]
async fn r25_compressed_events_arrive_one_by_one() {
    check_events_arrive_one_by_one("gzip", GzipEncoder::new(Vec::new()), GzipEncoder::get_mut)
        .await;
    check_events_arrive_one_by_one(
        "deflate",
        ZlibEncoder::new(Vec::new()),
        ZlibEncoder::get_mut,
    )
    .await;
    check_events_arrive_one_by_one("br", BrotliEncoder::new(Vec::new()), BrotliEncoder::get_mut)
        .await;
    check_events_arrive_one_by_one("zstd", ZstdEncoder::new(Vec::new()), ZstdEncoder::get_mut)
        .await;
}

/// A compressed stream carries an end marker. If the marker is missing, the stream was cut, even if the HTTP body ended cleanly.
#[tokio::test]
async fn compressed_stream_without_its_end_marker_is_cut() {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(b"data: 1\n\n").await.unwrap();
    encoder.flush().await.unwrap();
    let script = Script::of([encoder.into_inner()]);
    let mut response = event_stream(script);
    let gzip = "gzip".parse().unwrap();
    response.headers_mut().insert("content-encoding", gzip);
    let response = respond(&guarded(), Request::new(()), response).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "data: 1\n\n");
    // The layer delays an error until earlier frames are sent. A frame counts as sent when it is dropped.
    drop(first);
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}

async fn gzipped(layer: &SseProxyLayer, script: Script) -> SseBody<Script> {
    let mut response = event_stream(script);
    let gzip = "gzip".parse().unwrap();
    response.headers_mut().insert("content-encoding", gzip);
    respond(layer, Request::new(()), response).await.into_body()
}

/// The script panics if it is polled after its end.
#[tokio::test]
async fn r11_coded_body_is_polled_to_its_end_and_not_after_it() {
    let trailers: HeaderMap = [("x".parse().unwrap(), "y".parse().unwrap())]
        .into_iter()
        .collect();
    let coded = coded("gzip", b"data: 1\n\n").await;
    for with_trailers in [false, true] {
        let mut script = Script::of(coded.chunks(7).map(Bytes::copy_from_slice)).then(Step::Later);
        if with_trailers {
            script = script.then(Step::Trailers(trailers.clone()));
        }
        let all = gzipped(&guarded(), script).await.collect().await.unwrap();
        assert_eq!(all.trailers(), with_trailers.then_some(&trailers));
        assert_eq!(all.to_bytes(), "data: 1\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_a_coded_body_fails_the_stream() {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(b"data: 1\n\n").await.unwrap();
    encoder.flush().await.unwrap();
    let script = Script::of([encoder.into_inner()]).then(Step::Error);
    let out = rest(gzipped(&guarded(), script).await).await;
    assert_eq!(out, ("data: 1\n\n".into(), Some(ErrorKind::Upstream)));
}

/// A few kilobytes decode to a line of 1 MiB. The limit for one event counts decoded bytes.
#[tokio::test(start_paused = true)]
async fn r18_decompression_bomb_fails_at_the_event_size_limit() {
    let layer = guarded().max_event_bytes(1 << 16);
    for name in ["data: ", ": ", "id: ", ""] {
        let line = [name.as_bytes(), &vec![b'x'; 1 << 20]].concat();
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let bomb = coded(coding, &around(&[&line, &b"\n\n"[..]].concat())).await;
            assert!(bomb.len() < 8 << 10, "{coding}");
            let mut response = event_stream(Script::of([bomb]).then(Step::Never));
            let fields = response.headers_mut();
            fields.insert("content-encoding", coding.parse().unwrap());
            let response = respond(&layer, Request::new(()), response).await;
            let out = rest(response.into_body()).await;
            let failed = Some(ErrorKind::EventTooLarge);
            assert_eq!(
                out,
                ("data: before\n\n".into(), failed),
                "{coding} {name:?}"
            );
        }
    }
}

/// A decoder allocates a window of the size that the stream declares. The layer limits it to 8 MiB.
#[tokio::test(start_paused = true)]
async fn compression_window_above_the_limit_fails_the_stream() {
    use async_compression::{Level, tokio::write::ZstdEncoder, zstd::CParameter};
    for (window_log, passes) in [(23, true), (24, false)] {
        let window = [CParameter::window_log(window_log)];
        let mut encoder = ZstdEncoder::with_quality_and_params(Vec::new(), Level::Fastest, &window);
        encoder.write_all(b"data: 1\n\n").await.unwrap();
        encoder.flush().await.unwrap();
        encoder.shutdown().await.unwrap();
        let out = rest(in_coding("zstd", encoder.into_inner()).await).await;
        let expected = match passes {
            true => ("data: 1\n\n".into(), None),
            false => (String::new(), Some(ErrorKind::Upstream)),
        };
        assert_eq!(out, expected, "{window_log}");
    }

    // A window of 2^25 bytes and one uncompressed block. RFC 7932 has no such window, but decoders accept it.
    let text = b"data: 1\n\n";
    let head = 0x11 | 25 << 8 | (text.len() as u64 - 1) << 17 | 1 << 33;
    let large = [&head.to_le_bytes()[..5], text, &[3]].concat();
    let out = rest(in_coding("br", large).await).await;
    assert_eq!(out, (String::new(), Some(ErrorKind::Upstream)));
}

async fn in_coding(coding: &str, coded: Vec<u8>) -> SseBody<Script> {
    let mut response = event_stream(Script::of([coded]));
    let coding = coding.parse().unwrap();
    response.headers_mut().insert("content-encoding", coding);
    respond(&guarded(), Request::new(()), response)
        .await
        .into_body()
}
