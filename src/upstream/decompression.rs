//! Decodes compressed event streams, event by event.

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

/// How much is decoded at a time. A bomb is no danger: this is what it goes off in, as fast as the client reads, and
/// an event cannot outgrow the limit on events.
const BYTES_A_READ: usize = 8 << 10;

/// The largest window a zstd stream may ask for: 8 MiB, as RFC 8878 3.1.1.1.2 recommends and RFC 9659 requires of HTTP. The
/// decoder's own limit is 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How a brotli stream begins that asks for a window of up to 1 GiB, which RFC 7932 does not know and the decoder does.
const LARGE_WINDOW: u8 = 0x11;

/// The body that is in this coding, decoded.
///
/// Whatever follows on the end of the compressed data must be another member of it (RFC 1952 2.2), and the data must
/// not end in the middle: else the body fails. (tower-http's decompression reads the first member only, and passes
/// over what else came with it.)
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
            // A body has one set of trailers; what a faulty one adds is not lost data.
            let _ = seen.set(trailers.clone());
        }
        frame
    });
    // A decoder gives up what it has decoded when it has to wait, and drops it when it meets an error.
    let data = body.map_err(Into::into).into_data_stream();
    let data = data.or_else(|error: BoxError| async {
        wait_a_poll().await;
        Err(io::Error::other(error))
    });
    let mut begun = coding != "br";
    let data = data.map(move |chunk| match chunk {
        Ok(chunk) if !begun && !chunk.is_empty() => {
            begun = true;
            if chunk[0] & 0x7f == LARGE_WINDOW {
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
    let plain = match coding {
        "gzip" => decoder!(GzipDecoder::new(data)),
        "deflate" => decoder!(ZlibDecoder::new(data)),
        "br" => decoder!(BrotliDecoder::new(data)),
        _ => decoder!(ZstdDecoder::with_params(
            data,
            &[DParameter::window_log_max(ZSTD_WINDOW_LOG)]
        )),
    };

    let plain = ReaderStream::with_capacity(plain, BYTES_A_READ)
        .map_ok(Frame::data)
        .map_err(BoxError::from);
    let trailers = stream::once(async move { trailers.get().cloned() })
        .filter_map(ready)
        .map(|trailers| Ok(Frame::trailers(trailers)));
    Box::pin(StreamBody::new(plain.chain(trailers)))
}

/// Pending once.
async fn wait_a_poll() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
