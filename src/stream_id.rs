//! The id of an event stream.

use std::{error::Error, fmt, str::FromStr};

/// The id of an event stream: 128 random bits, so that no client can guess it.
///
/// The id of a [recorded](crate::replay) stream is the first part of the [`EventId`](crate::replay::EventId)s of the stream. Unless events [keep the ids of the
/// upstream](crate::replay::Replay::preserve_upstream_ids), an id in a client's `Last-Event-ID` therefore names the stream. The
/// layer puts the id of a stream that is recorded or [observed](crate::observe) into the [extensions](http::Response::extensions) of every response that reads it, so
/// that a middleware around the layer can name the stream, for example to [close](crate::Streams::close) it. If several nested
/// layers record a response, the extensions name the stream of the outermost one.
///
/// ```
/// # use std::convert::Infallible;
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse_proxy::{SseProxyLayer, replay::{Replay, StreamId}, streams::CloseReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let upstream = service_fn(|_: Request<()>| async {
/// #     Response::builder().header("content-type", "text/event-stream").body(Full::<Bytes>::from("data: 1\n\n"))
/// # });
/// let layer = SseProxyLayer::default().replay(Replay::default());
/// let response = layer.layer(upstream).oneshot(Request::get("/feed").body(())?).await?;
///
/// let stream = *response.extensions().get::<StreamId>().expect("the stream is recorded");
/// let closed = layer.streams().close(stream, CloseReason::Cancelled);
/// assert_eq!(closed, 1);
/// # Ok(()) }
/// ```
///
/// [`Display`](fmt::Display) writes 32 lowercase hexadecimal digits, and [`FromStr`] reads only those. `Debug` does not show the bits,
/// because a client with the id may be able to resume the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(u128);

impl StreamId {
    /// The id of no stream.
    pub(crate) const NONE: Self = Self(0);

    /// Returns a new id with random bits of the operating system.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has random numbers");
        Self(u128::from_le_bytes(bytes))
    }
}

#[cfg(test)]
impl StreamId {
    pub(crate) fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for StreamId {
    type Err = MalformedStreamId;

    /// # Errors
    /// If the text is not 32 lowercase hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, MalformedStreamId> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(MalformedStreamId(()));
        }
        let bits = u128::from_str_radix(text, 16);
        bits.map(Self).map_err(|_| MalformedStreamId(()))
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamId(..)")
    }
}

/// The error of a text that is not a [`StreamId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedStreamId(());

impl fmt::Display for MalformedStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stream id is 32 lowercase hexadecimal digits")
    }
}

impl Error for MalformedStreamId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_ids_differ_and_debug_does_not_show_them() {
        let stream = StreamId::random();
        assert_ne!(stream, StreamId::random());
        assert_eq!(format!("{stream:?}"), "StreamId(..)");
    }

    #[test]
    fn id_parses_as_it_was_written_and_other_texts_do_not() {
        let stream = StreamId::from_bits(0xab);
        assert_eq!(stream.to_string(), "000000000000000000000000000000ab");
        assert_eq!(stream.to_string().parse(), Ok(stream));
        for wrong in [
            "",
            "ab",
            "000000000000000000000000000000AB",
            "+00000000000000000000000000000ab",
        ] {
            assert!(wrong.parse::<StreamId>().is_err(), "{wrong}");
        }
    }
}
