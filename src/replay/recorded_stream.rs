//! A recorded stream: its log, and everything else that resume requests need.

use std::{
    any::Any,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use http::{HeaderMap, response};

use crate::{
    headers::{event_stream_head::head_with, stored::StoredHeaders},
    log::{Cursor, LogState, Reader, SharedLog, StartAt},
    observe::LiveStream,
    replay::{
        Account, Registered,
        continuation_rules::ContinuationRules,
        key::{StreamKey, StreamOwner, closed_key},
        on_demand::{BodyMailbox, ResumeOnDemand},
        resume_gate::{ResumeGate, ResumePermit},
    },
    session::Owner,
    stream_id::StreamId,
    upstream::{UpstreamProgress, body::DecodedBody},
};

/// A stream with a log of its last events, so that clients can resume it.
pub(crate) struct RecordedStream {
    pub(crate) id: StreamId,
    /// When the stream was opened. Of streams with the same key and upstream id, the latest is resumed.
    pub(crate) since: Instant,
    pub(crate) owner: StreamOwner,
    pub(crate) key: StreamKey,
    /// `None` without observers.
    pub(crate) live: Option<Arc<LiveStream>>,
    /// Those header fields of the first response that all other clients get, too.
    fields: StoredHeaders,
    /// Events keep the ids that the upstream gave them.
    preserves_upstream_ids: bool,
    pub(crate) continuation: ContinuationRules,
    pub(crate) log: Arc<SharedLog>,
    account: Arc<Account>,
    pub(crate) progress: Arc<UpstreamProgress>,
    /// Lets one client of a shared stream ask the upstream to continue it.
    gate: Option<Arc<ResumeGate>>,
    /// The stream that replaced this one after its end.
    successor: Mutex<Weak<Self>>,
    /// An `Arc<BodyMailbox<B>>` for the next response of the upstream. Only the service knows the body type `B`.
    mailbox: Box<dyn Any + Send + Sync>,
}

/// The parts of a new recorded stream.
pub(crate) struct NewRecordedStream<'a> {
    pub(crate) id: StreamId,
    pub(crate) owner: StreamOwner,
    pub(crate) key: StreamKey,
    pub(crate) live: Option<Arc<LiveStream>>,
    pub(crate) log: SharedLog,
    /// The memory of the log counts against this.
    pub(crate) account: Arc<Account>,
    pub(crate) progress: Arc<UpstreamProgress>,
    /// The fields that other clients get.
    pub(crate) headers: &'a HeaderMap,
    /// Events keep the ids that the upstream gave them.
    pub(crate) preserves_upstream_ids: bool,
    pub(crate) continuation: ContinuationRules,
}

impl RecordedStream {
    /// Returns the stream, and the continuation that waits for a client to resume it.
    pub(crate) fn new<B: Send + 'static>(new: NewRecordedStream<'_>) -> (Self, ResumeOnDemand<B>) {
        let log = Arc::new(new.log);
        let (mailbox, on_demand) = ResumeOnDemand::new(
            Arc::clone(&log),
            Arc::clone(&new.progress),
            new.continuation,
        );
        let gate = matches!(new.key, StreamKey::Shared(..)).then(Arc::default);
        let stream = Self {
            id: new.id,
            since: Instant::now(),
            owner: new.owner,
            key: new.key,
            live: new.live,
            fields: StoredHeaders::new(new.headers.iter()),
            preserves_upstream_ids: new.preserves_upstream_ids,
            continuation: new.continuation,
            log,
            account: new.account,
            progress: new.progress,
            gate,
            successor: Mutex::default(),
            mailbox: Box::new(mailbox),
        };
        (stream, on_demand)
    }

    /// The head of a response that reads this stream.
    pub(crate) fn head(&self) -> response::Parts {
        head_with(self.fields.to_map())
    }

    /// Subscribes a client at this position of the log. Dropping the reader unsubscribes it.
    pub(crate) fn subscribe(&self, from: Cursor) -> Reader {
        Reader::new(Arc::clone(&self.log), from).live(self.live.clone())
    }

    /// Subscribes a client to a stream that is still written. Returns `None` if the stream has ended.
    pub(crate) fn join(&self, start: StartAt) -> Option<Reader> {
        let subscriber = self.log.join(start)?;
        let reader = Reader::from_subscriber(Arc::clone(&self.log), subscriber);
        Some(reader.live(self.live.clone()))
    }

    /// The name of the stream among the closed streams of its owner.
    pub(crate) fn closed_key(&self) -> impl Hash + use<> {
        closed_key(&self.owner, &self.key, self.id)
    }

    /// Whether the stream was closed: it can be neither resumed nor continued.
    pub(crate) fn is_closed(&self) -> bool {
        self.log.is_aborted()
    }

    /// The memory, in bytes, of the parts that have no fixed size: response head, key and ids.
    pub(crate) fn memory(&self) -> usize {
        self.fields.len() + self.key.memory() + self.progress.memory()
    }

    /// The stream id that event ids begin with. `None` if events keep the ids of the upstream.
    pub(crate) fn id_prefix(&self) -> Option<StreamId> {
        (!self.preserves_upstream_ids).then_some(self.id)
    }

    /// The stream that replaced this one after its end, if it is still recorded.
    pub(crate) fn successor(&self) -> Option<Arc<Self>> {
        let successor = self.successor.lock();
        successor.unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    pub(crate) fn set_successor(&self, successor: &Arc<Self>) {
        let mut current = self
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::downgrade(successor);
    }

    /// Waits until no other client of a shared stream asks the upstream to continue it.
    pub(crate) async fn resume_permit(&self) -> ResumePermit {
        match &self.gate {
            Some(gate) => ResumeGate::acquire(gate).await,
            None => ResumePermit::default(),
        }
    }

    /// Continues the stream with the body of another response. Returns the body if the stream does not wait for a response.
    pub(crate) fn resume_with<B: Send + 'static>(
        &self,
        body: DecodedBody<B>,
    ) -> Result<(), DecodedBody<B>> {
        match self.mailbox::<B>() {
            Some(mailbox) if self.log.resume() => {
                mailbox.put(Some(body));
                Ok(())
            }
            _ => Err(body),
        }
    }

    /// Ends the stream if interceptors hold events of it, because the upstream has no more events. The interceptors then decide about
    /// the events.
    ///
    /// Returns whether this reader has events to read or may get some.
    pub(crate) fn finish_held_events<B: 'static>(&self, reader: &Reader, last_id: &str) -> bool {
        if self.has_advanced_past(reader, last_id) {
            return true;
        }
        match self.mailbox::<B>() {
            Some(mailbox) if self.progress.has_unlogged_events() && self.log.resume() => {
                self.progress.complete();
                mailbox.put(None);
                true
            }
            _ => false,
        }
    }

    /// Whether the stream has changed since this reader's request asked the upstream to continue after this id: another response came
    /// first, or interceptors released or dropped the events that they held.
    pub(crate) fn has_advanced_past(&self, reader: &Reader, last_id: &str) -> bool {
        self.log.state() == LogState::Live
            || reader.has_events()
            || self.progress.last_id().as_deref() != Some(last_id)
    }

    fn mailbox<B: 'static>(&self) -> Option<&BodyMailbox<B>> {
        self.mailbox
            .downcast_ref::<Arc<BodyMailbox<B>>>()
            .map(|mailbox| &**mailbox)
    }
}

impl Registered for RecordedStream {
    type StreamOwner = StreamOwner;
    type Owner = Owner;

    fn stream_owner(&self) -> &StreamOwner {
        &self.owner
    }

    fn owner(&self) -> &Owner {
        &self.owner.owner
    }

    fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn log(&self) -> &SharedLog {
        &self.log
    }
}
