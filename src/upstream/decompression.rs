//! Decodes compressed event streams. An event leaves as soon as the compressed data holds it.

use std::{
    future::{poll_fn, ready},
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::Poll,
};

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};
use tower::BoxError;

/// The size of one decoded frame, in bytes. It bounds the memory of a decompression bomb: the decoder runs only as fast as the
/// client reads, and the decoder of events limits the size of an event.
const FRAME_BYTES: usize = 8 << 10;

/// The largest window of a zstd stream, as a power of two: 8 MiB. RFC 8878 section 3.1.1.1.2 recommends this limit, and RFC 9659
/// requires it for HTTP. The default limit of the decoder is 128 MiB.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// The first byte (seven bits of it) of a brotli stream with a "large window" of up to 1 GiB. RFC 7932 does not define such
/// streams, but the decoder accepts them.
const BROTLI_LARGE_WINDOW: u8 = 0x11;

/// Decodes a body with this content coding.
///
/// The body may have several members (RFC 1952 section 2.2). It fails if other bytes follow a member, or if the last member is
/// incomplete. (The decompression of tower-http reads the first member only, and ignores the rest of its chunk.)
pub(super) fn decoded<B>(
    coding: &str,
    body: B,
) -> Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let trailers = Arc::new(OnceLock::new());
    let seen = Arc::clone(&trailers);
    let body = body.map_frame(move |frame| {
        if let Some(trailers) = frame.trailers_ref() {
            // A body has at most one trailers frame. Those after the first one are ignored.
            let _ = seen.set(trailers.clone());
        }
        frame
    });
    // A decoder returns the bytes that it has decoded when its input is pending, and drops them when its input fails. So the error
    // arrives one poll later.
    let data = body.map_err(Into::into).into_data_stream();
    let data = data.or_else(|error: BoxError| async {
        yield_once().await;
        Err(io::Error::other(error))
    });
    let mut is_checked = coding != "br";
    let data = data.map(move |chunk| match chunk {
        Ok(chunk) if !is_checked && !chunk.is_empty() => {
            is_checked = true;
            if chunk[0] & 0x7f == BROTLI_LARGE_WINDOW {
                return Err(io::Error::other("a brotli window larger than 16 MiB"));
            }
            Ok(chunk)
        }
        chunk => chunk,
    });
    let data = StreamReader::new(Box::pin(data));

    macro_rules! decoder {
        ($decoder:expr) => {{
            let mut decoder = $decoder;
            decoder.multiple_members(true);
            Box::pin(decoder) as Pin<Box<dyn AsyncRead + Send>>
        }};
    }
    let decoded = match coding {
        "gzip" => decoder!(GzipDecoder::new(data)),
        "deflate" => decoder!(ZlibDecoder::new(data)),
        "br" => decoder!(BrotliDecoder::new(data)),
        _ => decoder!(ZstdDecoder::with_params(
            data,
            &[DParameter::window_log_max(MAX_ZSTD_WINDOW_LOG)]
        )),
    };

    let frames = ReaderStream::with_capacity(decoded, FRAME_BYTES)
        .map_ok(Frame::data)
        .map_err(BoxError::from);
    let trailers = stream::once(async move { trailers.get().cloned() })
        .filter_map(ready)
        .map(|trailers| Ok(Frame::trailers(trailers)));
    Box::pin(StreamBody::new(frames.chain(trailers)))
}

/// Is pending at the first poll, and wakes the task.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
