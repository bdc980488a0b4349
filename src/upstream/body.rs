//! The body of an upstream response: as it arrives, and without its content coding.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::{
    error::{Error, ErrorKind},
    headers::content_encoding::ContentCoding,
    observe::LiveStream,
    upstream::{
        decompression,
        read_ahead::{self, ReadAhead},
    },
};

type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

pin_project! {
    /// The body of an upstream response, as it arrives. Its errors have the kind [`ErrorKind::Upstream`], or [`ErrorKind::Lagged`] if the
    /// client was too far behind.
    #[project = RawBodyProj]
    pub(crate) enum RawBody<B> {
        Direct { #[pin] body: B },
        Ahead { body: ReadAhead<B> },
    }
}

impl<B> RawBody<B> {
    /// A body that is not read ahead.
    pub(crate) fn direct(body: B) -> Self {
        Self::Direct { body }
    }

    /// Sets the observed stream that the body belongs to. See [`ReadAhead::observe`].
    pub(crate) fn observe(&self, live: &Arc<LiveStream>) {
        if let Self::Ahead { body } = self {
            body.observe(live);
        }
    }
}

impl<B> RawBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// A body that is read at most `read_ahead` bytes ahead of its client. With `None`, it is not read ahead.
    pub(crate) fn new(body: B, read_ahead: Option<usize>) -> Self {
        let ahead = match read_ahead {
            Some(limit) => ReadAhead::new(body, limit),
            None => Err(body),
        };
        match ahead {
            Ok(body) => Self::Ahead { body },
            Err(body) => Self::Direct { body },
        }
    }
}

impl<B> Body for RawBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    #[inline] // See `Source::poll_frames` of `Pull`.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project() {
            RawBodyProj::Direct { body } => body
                .poll_frame(cx)
                .map_err(|error| Error::with_source(ErrorKind::Upstream, error)),
            RawBodyProj::Ahead { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct { body } => body.is_end_stream(),
            Self::Ahead { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct { body } => body.size_hint(),
            Self::Ahead { body } => body.size_hint(),
        }
    }
}

pin_project! {
    /// The body of an upstream response, decoded if its content coding is supported.
    #[project = DecodedBodyProj]
    pub(crate) enum DecodedBody<B> {
        /// A body without a supported content coding, unchanged.
        Unchanged { #[pin] body: RawBody<B> },
        /// Boxed, because the state of a decoder is large and most streams have no content coding.
        Decoded {
            body: SyncWrapper<BoxBody>,
            ahead: Weak<read_ahead::Shared<B>>,
        },
    }
}

impl<B> DecodedBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The decoded body of a response with this content coding. A body with an unsupported coding stays encoded.
    pub(crate) fn new(coding: &ContentCoding, body: RawBody<B>) -> Self {
        match coding {
            ContentCoding::Known(name) => DecodedBody::Decoded {
                ahead: match &body {
                    RawBody::Direct { .. } => Weak::new(),
                    RawBody::Ahead { body } => body.shared(),
                },
                body: SyncWrapper::new(decompression::decoded(name, body)),
            },
            ContentCoding::Identity | ContentCoding::Unsupported(_) => {
                DecodedBody::Unchanged { body }
            }
        }
    }
}

impl<B> DecodedBody<B> {
    /// Sets the stream that the body belongs to. See [`ReadAhead::observe`].
    pub(crate) fn observe(&self, live: &Arc<LiveStream>) {
        match self {
            Self::Unchanged { body } => body.observe(live),
            Self::Decoded { ahead, .. } => {
                if let Some(ahead) = ahead.upgrade() {
                    ahead.observe(live);
                }
            }
        }
    }
}

impl<B> DecodedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls the next frame. Errors are those of a [`RawBody`]. An error of the decoder has the kind [`ErrorKind::Upstream`].
    #[inline] // See `Source::poll_frames` of `Pull`.
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project() {
            DecodedBodyProj::Unchanged { body } => body.poll_frame(cx),
            DecodedBodyProj::Decoded { body, .. } => {
                let frame = body.get_mut().as_mut().poll_frame(cx);
                frame.map_err(decoding_failed)
            }
        }
    }
}

/// The error of the body below a decoder, or of the decoder.
fn decoding_failed(error: BoxError) -> Error {
    let failed = |error| Error::with_source(ErrorKind::Upstream, error);
    match error.downcast::<io::Error>() {
        Ok(error) => match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => failed(error.into()),
        },
        Err(error) => failed(error),
    }
}
