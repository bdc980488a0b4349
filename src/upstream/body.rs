//! The body of an upstream response, without its content coding.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;
use tower::BoxError;

use crate::{
    error::{Error, ErrorKind},
    headers::content_encoding::ContentCoding,
    upstream::decompression,
};

type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

pin_project! {
    /// The body of an upstream response, decoded if its content coding is supported.
    #[project = DecodedBodyProj]
    pub(crate) enum DecodedBody<B> {
        /// A body without a supported content coding, unchanged.
        Unchanged { #[pin] body: B },
        /// Boxed, because the state of a decoder is large and most streams have no content coding.
        Decoded { body: SyncWrapper<BoxBody> },
    }
}

impl<B> DecodedBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The decoded body of a response with this content coding. A body with an unsupported coding stays encoded.
    pub(crate) fn new(coding: &ContentCoding, body: B) -> Self {
        match coding {
            ContentCoding::Known(name) => DecodedBody::Decoded {
                body: SyncWrapper::new(decompression::decoded(name, body)),
            },
            ContentCoding::Identity | ContentCoding::Unsupported(_) => {
                DecodedBody::Unchanged { body }
            }
        }
    }
}

impl<B> DecodedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Polls the next frame. An error of the upstream or of the decoder has the kind [`ErrorKind::Upstream`].
    #[inline] // See `Source::poll_frames` of `Pull`.
    pub(crate) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let failed = |error: BoxError| Error::with_source(ErrorKind::Upstream, error);
        match self.project() {
            DecodedBodyProj::Unchanged { body } => {
                body.poll_frame(cx).map_err(|error| failed(error.into()))
            }
            DecodedBodyProj::Decoded { body } => {
                body.get_mut().as_mut().poll_frame(cx).map_err(failed)
            }
        }
    }
}
