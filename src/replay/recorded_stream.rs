//! A stream that is kept: what is known of it beside what it has sent.

use std::{
    any::Any,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use http::{HeaderMap, header, request, response, uri::Authority};

use crate::{
    headers::{event_stream::head_with, query::without_parameter, stored::StoredHeaders},
    log::{LogState, Reader, SharedLog, StreamId},
    replay::{
        Account, Record, Replay,
        continuation_rules::ContinuationRules,
        on_demand::{BodyMailbox, ResumeOnDemand},
        resume_gate::{ResumeGate, ResumePermit},
    },
    session::{Owner, SessionId},
    upstream::{UpstreamProgress, body::DecodedBody},
};

/// Names a stream within those of its owner, among those that were closed.
pub(crate) fn closed_key(
    whose: &StreamOwner,
    target: &StreamKey,
    token: StreamId,
) -> impl Hash + use<> {
    (whose.session.clone(), target.clone(), token)
}

/// Who may have a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamOwner {
    pub(crate) owner: Owner,
    pub(crate) session: Option<SessionId>,
}

/// What a stream was asked for by, within the scope of this name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum StreamKey {
    /// Host, path and query.
    Path(Arc<str>, String),
    /// Host, and the key by which it is shared.
    Shared(Arc<str>, String),
}

impl StreamKey {
    pub(crate) fn of(request: &request::Parts, replay: &Replay) -> Self {
        let scope = Arc::clone(&replay.scope);
        if let Some(share) = &replay.share
            && let Some(key) = (share.by)(request)
        {
            return Self::Shared(scope, with_host(request, &key));
        }
        let query = without_parameter(&request.uri, replay.query.as_deref());
        // No path has a question mark in it.
        let target = with_host(request, &format!("{}{query}", request.uri.path()));
        Self::Path(scope, target)
    }
}

/// The host that a request names, and then this text. A server may have several hosts, whose equal paths are different resources.
///
/// HTTP/2 and absolute-form requests name the host in the URI, others in `Host` (RFC 9110 7.2). If the two differ both count,
/// since the service may go by either.
fn with_host(request: &request::Parts, rest: &str) -> String {
    let authority = request.uri.authority().map(Authority::as_str);
    let mut host = authority.unwrap_or_default().to_ascii_lowercase();
    for value in request.headers.get_all(header::HOST) {
        let value = value.as_bytes().to_ascii_lowercase();
        let value = value.escape_ascii().to_string();
        if value != host {
            host = format!("{host} {value}").trim_start().to_owned();
        }
    }
    // With the length, so that no other host and rest make the same text.
    format!("{}:{host}{rest}", host.len())
}

/// One stream, for those who come back to it.
pub(crate) struct RecordedStream {
    pub(crate) token: StreamId,
    /// By the real clock: of two streams one began first.
    pub(crate) since: Instant,
    pub(crate) whose: StreamOwner,
    pub(crate) target: StreamKey,
    /// The fields of the first response that other clients may have, too.
    fields: StoredHeaders,
    /// Events keep the ids that they have.
    upstream_ids: bool,
    pub(crate) continuation: ContinuationRules,
    pub(crate) channel: Arc<SharedLog>,
    account: Arc<Account>,
    pub(crate) progress: Arc<UpstreamProgress>,
    /// Of those who share it, one asks the upstream to go on, for all.
    turns: Option<Arc<ResumeGate>>,
    /// The stream that follows on this one, which is over.
    successor: Mutex<Weak<Self>>,
    /// Takes another answer of the upstream; of a type that only the service knows.
    next: Box<dyn Any + Send + Sync>,
}

impl RecordedStream {
    /// A stream, with its log and the account that this counts against; and what takes another answer of the upstream.
    pub(crate) fn new<B: Send + 'static>(
        token: StreamId,
        (whose, target): (StreamOwner, StreamKey),
        (channel, account): (SharedLog, Arc<Account>),
        progress: UpstreamProgress,
        headers: &HeaderMap,
        upstream_ids: bool,
        continuation: ContinuationRules,
    ) -> (Self, ResumeOnDemand<B>) {
        let fields = headers.iter();
        let channel = Arc::new(channel);
        let progress = Arc::new(progress);
        let (next, waiting) =
            ResumeOnDemand::new(Arc::clone(&channel), Arc::clone(&progress), continuation);
        let turns = matches!(target, StreamKey::Shared(..)).then(Arc::default);
        let recording = Self {
            token,
            since: Instant::now(),
            whose,
            target,
            fields: StoredHeaders::new(fields),
            upstream_ids,
            continuation,
            channel,
            account,
            progress,
            turns,
            successor: Mutex::default(),
            next: Box::new(next),
        };
        (recording, waiting)
    }

    /// The head of an answer that goes on with it.
    pub(crate) fn head(&self) -> response::Parts {
        head_with(self.fields.to_map())
    }

    /// Names the stream, within those of its owner: by nothing else it can be resumed.
    pub(crate) fn key(&self) -> impl Hash + use<> {
        closed_key(&self.whose, &self.target, self.token)
    }

    /// Whether it was closed: it cannot be resumed, nor continued.
    pub(crate) fn is_closed(&self) -> bool {
        self.channel.is_aborted()
    }

    /// The memory, in bytes, of what it holds that can be of any size: its response head, its address and ids.
    pub(crate) fn memory(&self) -> usize {
        let (StreamKey::Path(_, at) | StreamKey::Shared(_, at)) = &self.target;
        self.fields.len() + at.capacity() + self.progress.memory()
    }

    /// What events get for an id, if they get one.
    pub(crate) fn id_prefix(&self) -> Option<StreamId> {
        (!self.upstream_ids).then_some(self.token)
    }

    /// The stream that follows on this one, while it is kept.
    pub(crate) fn successor(&self) -> Option<Arc<Self>> {
        let successor = self.successor.lock();
        successor.unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// This one is over, and another stream follows on it.
    pub(crate) fn set_successor(&self, successor: &Arc<Self>) {
        let mut place = self
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Arc::downgrade(successor);
    }

    /// Waits until nobody else asks the upstream to go on.
    pub(crate) async fn resume_permit(&self) -> ResumePermit {
        match &self.turns {
            Some(turns) => ResumeGate::take(turns).await,
            None => ResumePermit::default(),
        }
    }

    /// Goes on with another answer of the upstream, if one is waited for. Given back if not.
    pub(crate) fn resume_with<B: Send + 'static>(
        &self,
        answer: DecodedBody<B>,
    ) -> Result<(), DecodedBody<B>> {
        match self.next.downcast_ref::<Arc<BodyMailbox<B>>>() {
            Some(next) if self.channel.resume() => {
                next.put(Some(answer));
                Ok(())
            }
            _ => Err(answer),
        }
    }

    /// The upstream has no more to go on with. Whether there is something to read all the same, or will be: what interceptors hold
    /// comes to its end.
    pub(crate) fn finish<B: 'static>(&self, reader: &Reader, last_id: &str) -> bool {
        if self.has_advanced_past(reader, last_id) {
            return true;
        }
        match self.next.downcast_ref::<Arc<BodyMailbox<B>>>() {
            Some(next) if self.progress.is_held_back() && self.channel.resume() => {
                self.progress.complete();
                next.put(None);
                true
            }
            _ => false,
        }
    }

    /// Whether something has happened to the stream since the upstream was asked for this reader to go on after this id: another
    /// answer came first, or interceptors have let go of what they held, or have not and never will.
    pub(crate) fn has_advanced_past(&self, reader: &Reader, last_id: &str) -> bool {
        self.channel.state() == LogState::Live
            || reader.has_events()
            || self.progress.last_id().as_deref() != Some(last_id)
    }
}

impl Record for RecordedStream {
    type Whose = StreamOwner;
    type Owner = Owner;

    fn whose(&self) -> &StreamOwner {
        &self.whose
    }

    fn owner(&self) -> &Owner {
        &self.whose.owner
    }

    fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn channel(&self) -> &SharedLog {
        &self.channel
    }
}

impl fmt::Debug for RecordedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("whose", &self.whose)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
