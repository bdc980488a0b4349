//! Content codings: which one a body is in, and the body without it.

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_ENCODING};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use std::task::{Context, Poll};
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::upstream::decompression;
use crate::{
    error::{Error, ErrorKind},
    headers::content_type::shown,
};

/// The codings that a body can be in (RFC 9110 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContentCoding {
    Identity,
    Known(&'static str),
    /// Unknown, not compiled in, or several on top of each other; the field as it was sent, for the log.
    Unsupported(String),
}

impl ContentCoding {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let names: Vec<&[u8]> = values
            .flat_map(|value| value.as_bytes().split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"))
            .collect();
        match names[..] {
            [] => ContentCoding::Identity,
            [name] if known(name).is_some() => {
                ContentCoding::Known(known(name).unwrap_or_default())
            }
            _ => ContentCoding::Unsupported(shown(&names.join(&b", "[..]))),
        }
    }
}

/// Whether bodies in this coding can be read.
pub(crate) fn is_known(name: &[u8]) -> bool {
    known(name).is_some()
}

/// The canonical name of a coding that can be read. Names are case-insensitive, and `x-gzip` is gzip (RFC 9110
/// 8.4.1).
fn known(name: &[u8]) -> Option<&'static str> {
    let name = if name.eq_ignore_ascii_case(b"x-gzip") {
        b"gzip"
    } else {
        name
    };
    decompression::CODINGS
        .iter()
        .find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        .copied()
}

type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

pin_project! {
    /// An upstream's body in plain text.
    #[project = PlainProj]
    pub(crate) enum DecodedBody<B> {
        AsSent { #[pin] body: B },
        /// Boxed, since the state of a decoder is large and most streams have none.
        Decoded { body: SyncWrapper<BoxBody> },
    }
}

impl<B> DecodedBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The body of a response that is in this coding.
    pub(crate) fn new(coding: &ContentCoding, body: B) -> Self {
        match coding {
            ContentCoding::Known(name) => DecodedBody::Decoded {
                body: SyncWrapper::new(decompression::decoded(name, body)),
            },
            ContentCoding::Identity | ContentCoding::Unsupported(_) => DecodedBody::AsSent { body },
        }
    }
}

impl<B> DecodedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let failed = |error: BoxError| Error::with_source(ErrorKind::Upstream, error);
        match self.project() {
            PlainProj::AsSent { body } => body.poll_frame(cx).map_err(|error| failed(error.into())),
            PlainProj::Decoded { body } => body.get_mut().as_mut().poll_frame(cx).map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_known_coding_is_the_most_that_can_be_read() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            ContentCoding::of(&headers)
        };
        assert_eq!(of(&[]), ContentCoding::Identity);
        assert_eq!(of(&["identity", " , Identity"]), ContentCoding::Identity);
        assert_eq!(
            of(&["gzip, gzip"]),
            ContentCoding::Unsupported("gzip, gzip".into())
        );
        assert_eq!(
            of(&["gzip", "br"]),
            ContentCoding::Unsupported("gzip, br".into())
        );
        assert_eq!(of(&["rot13"]), ContentCoding::Unsupported("rot13".into()));
        let gzip = if cfg!(feature = "decompression") {
            ContentCoding::Known("gzip")
        } else {
            ContentCoding::Unsupported("X-GZip".into())
        };
        assert_eq!(of(&["X-GZip"]), gzip);
    }
}
