//! The replacement of `decompression` in builds without that feature: no content coding is supported.

use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tower::BoxError;

/// Never called, because no content coding is supported. Returns the body as it is.
pub(super) fn decoded<B>(
    _coding: &str,
    body: B,
) -> Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Box::pin(body.map_err(Into::into))
}
