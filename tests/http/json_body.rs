//! JSON bodies pass through the interceptors as one event before their response leaves. Unchanged ones keep their head and bytes,
//! and a body that the interceptors cannot read is answered with 502.

mod cancelled;
mod outcomes;
mod records;
mod stages;
mod untouched;

use async_compression::tokio::write::GzipEncoder;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tower_sse_proxy::SseProxyLayer;

use crate::support::{SECRET, Script, respond};

const LIMIT: usize = 1000;

/// A layer that lets interceptors see JSON bodies of at most [`LIMIT`] bytes. It has no interceptor yet.
fn inspecting() -> SseProxyLayer {
    SseProxyLayer::default().inspect_json(LIMIT)
}

/// A JSON body with the text that `Deny` withholds.
fn secret() -> String {
    format!("{{\"a\":\"{SECRET}\"}}")
}

/// A response with these header fields and this body.
fn response<B>(fields: &[(&str, &str)], body: B) -> Response<B> {
    let mut response = Response::builder();
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Passes a response through the layer. Returns the head, and the body as text.
async fn passed(
    layer: &SseProxyLayer,
    response: Response<Script>,
) -> (http::response::Parts, String) {
    let response = respond(layer, Request::new(()), response).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head, String::from_utf8(body.into()).unwrap())
}

async fn gzip(text: impl AsRef<[u8]>) -> Bytes {
    let mut encoder = GzipEncoder::new(Vec::new());
    encoder.write_all(text.as_ref()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner().into()
}
