//! An upstream's body without its content coding.

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
