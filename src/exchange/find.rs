//! How a request of a policy with replay is answered: from a recorded stream, or by a call that records its stream.

use http::request;

use crate::{
    exchange::{
        context::RequestContext,
        outcome::Outcome,
        record::RecordingContext,
        resume::{Resume, Resumed, accepts_stream, names_an_event},
        session::resumes_call,
    },
    replay::key::{StreamKey, StreamOwner},
    session::SessionId,
};

/// Finds the recorded stream that a request resumes. Removes the layer's own ids from `parts`, the request for the service.
///
/// Returns how the response of the service is recorded, or the outcome if the service is not called.
pub(crate) async fn find_recorded<R>(
    context: &RequestContext,
    client: &request::Parts,
    parts: &mut request::Parts,
    session: Option<SessionId>,
) -> Result<Option<Box<RecordingContext>>, Outcome<R>> {
    let Some(replay) = &context.policy.replay else {
        return Ok(None);
    };
    let owner = StreamOwner {
        owner: context.owner(client),
        session,
    };
    let key = StreamKey::of(client, replay);
    let resume = Resume {
        streams: &context.state.streams,
        replay,
        observers: &context.state.observers,
        owner: &owner,
        key: &key,
    };
    let pending = match resume.find(client, parts).await {
        Resumed::No => None,
        Resumed::Subscribe(subscription) => return Err(Outcome::Subscribe(subscription)),
        Resumed::AskUpstream(pending) => {
            if !pending.stream.continuation.opened_by_get {
                resumes_call(parts);
            }
            Some(pending)
        }
        Resumed::Reject(rejection) => return Err(Outcome::Reject(rejection)),
    };
    // A response that continues a stream in its middle is of no use to other clients. And a client that names an event of the upstream
    // cannot join a running stream, because the layer does not know where that event is in it.
    let coalesces = matches!(key, StreamKey::Shared(..))
        && pending.is_none()
        && !names_an_event(parts, replay)
        && accepts_stream(&client.method);
    Ok(Some(Box::new(RecordingContext {
        pending,
        coalesces,
        ..RecordingContext::new(replay, owner, key)
    })))
}
