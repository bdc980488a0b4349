//! Whether a client may resume or join an existing stream.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use http::{Request, StatusCode, request};
use tower::ServiceExt;

use crate::{
    rejection::{Rejection, RejectionReason},
    replay::Replay,
};

/// Asks the service of [`Replay::authorize`]. Fails closed: if the service returns no response, the client is rejected.
pub(crate) async fn authorize(replay: &Replay, client: &request::Parts) -> Result<(), Rejection> {
    let Some(authorize) = &replay.authorize else {
        return Ok(());
    };
    // Cloned and called inside of the future, where a panic is caught.
    let response = async {
        let request = Request::from_parts(client.clone(), ());
        authorize.clone().oneshot(request).await
    };
    let response = AssertUnwindSafe(response).catch_unwind();
    let why = match tokio::time::timeout(replay.authorize_timeout, response).await {
        Ok(Ok(Ok(status))) if status.is_success() => return Ok(()),
        Ok(Ok(Ok(status))) if !status.is_informational() => {
            let text = "this stream cannot be resumed or joined\n";
            return Err(Rejection::new(status, text).because(RejectionReason::Unauthorized));
        }
        Ok(Ok(Ok(status))) => format!("it returned status {status}, which is not final"),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "it panicked".to_owned(),
        Err(_) => format!("it took longer than {:?}", replay.authorize_timeout),
    };
    tracing::warn!("the service that authorizes clients to resume or join streams failed: {why}");
    Err(Rejection::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "streams cannot be resumed or joined now\n",
    )
    .because(RejectionReason::Unauthorized))
}
