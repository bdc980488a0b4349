//! Without the feature `decompression` no coding can be read.

use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tower::BoxError;

/// Never called: there is no coding to call it with.
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
