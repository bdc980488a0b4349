//! The state that all services of one layer share.

use std::sync::Arc;

use http::request;

#[cfg(feature = "sessions")]
use crate::session::{SessionBinder, SessionMapping};
use crate::{
    live::Housekeeper,
    observe::{LiveStreams, Observers, StreamLimits, StreamObserver},
    policy::Policy,
    replay::{Quota, RecordedStreams},
    session::{AnyStore, Owners, SessionKeepAlive},
    streams::ProgressReports,
};

/// The largest read buffer of hyper's HTTP/1 client, unless it is configured.
const READ_BUFFER: usize = 8192 + 4096 * 100;

/// The settings of a layer, and the sessions and recorded streams of its services.
///
/// A setter of the layer changes a copy, so that clones of the layer from before keep theirs.
#[derive(Clone)]
pub(crate) struct LayerState {
    /// The policy that the setters of the layer fill.
    pub(crate) policy: Arc<Policy>,
    pub(crate) choose_policy: Option<ChoosePolicy>,
    pub(crate) owners: Owners,
    pub(crate) store: AnyStore,
    session_keep_alive: Arc<SessionKeepAlive>,
    quota: Quota,
    pub(crate) streams: Arc<RecordedStreams>,
    pub(crate) observers: Observers,
    stream_limits: StreamLimits,
    /// The streams that are open, recorded or not.
    pub(crate) live: Arc<LiveStreams>,
    pub(crate) housekeeper: Arc<Housekeeper>,
    progress: Arc<ProgressReports>,
    /// The largest read buffer, in bytes, of a connection to an upstream.
    pub(crate) read_buffer: usize,
}

/// Returns the policy for a request, given the policy of the layer.
pub(crate) type ChoosePolicy =
    Arc<dyn Fn(&request::Parts, Arc<Policy>) -> Arc<Policy> + Send + Sync>;

impl LayerState {
    /// The policy for a request.
    pub(crate) fn policy_for(&self, request: &request::Parts) -> Arc<Policy> {
        let default = Arc::clone(&self.policy);
        match &self.choose_policy {
            Some(choose) => choose(request, default),
            None => default,
        }
    }

    /// Whether streams of this policy are observed.
    pub(crate) fn observes(&self, policy: &Policy) -> bool {
        !self.observers.is_empty()
            || self.live.is_listed()
            || self.live.admission().has_limits()
            || policy.watchdog.is_some()
            || policy.early_head.is_some()
    }

    /// Changes the limits of recorded streams. The layer then has no recorded streams yet.
    pub(crate) fn set_quota(&mut self, set: impl FnOnce(&mut Quota)) {
        set(&mut self.quota);
        self.streams = Arc::new(RecordedStreams::new(self.quota));
        self.renew_progress();
    }

    /// Changes the limits on open streams. The layer then has no open streams yet.
    pub(crate) fn set_stream_limits(&mut self, set: impl FnOnce(&mut StreamLimits)) {
        set(&mut self.stream_limits);
        self.live = Arc::new(LiveStreams::with_limits(self.stream_limits));
        self.renew_progress();
    }

    /// Adds an observer of event streams and of the session store.
    pub(crate) fn observe(&mut self, observer: Arc<dyn StreamObserver>) {
        self.observers.add(observer);
        let observers = self.observers.clone();
        let observe = move |operation, result, duration| {
            observers.each(|observer| observer.store_called(operation, result, duration));
        };
        self.store.observe(Arc::new(observe));
        self.renew_progress();
    }

    fn renew_progress(&mut self) {
        let progress = ProgressReports::new(&self.live, &self.streams, &self.observers);
        self.progress = Arc::new(progress);
    }

    /// Reports the progress of streams from now on, if an observer wants that. Called for each stream that has opened.
    pub(crate) fn report_progress(&self) {
        self.progress.start(&self.housekeeper);
    }

    /// The store and the keep-alive task, for sessions that this mapping finds.
    #[cfg(feature = "sessions")]
    pub(crate) fn session_binder(&self, mapping: &SessionMapping) -> SessionBinder {
        SessionBinder::new(
            self.store.clone(),
            Arc::clone(&self.session_keep_alive),
            mapping.store_limit(),
        )
    }
}

impl Default for LayerState {
    fn default() -> Self {
        let streams = Arc::new(RecordedStreams::new(Quota::default()));
        let live = Arc::default();
        let observers = Observers::default();
        Self {
            progress: Arc::new(ProgressReports::new(&live, &streams, &observers)),
            policy: Arc::default(),
            choose_policy: None,
            owners: Owners::default(),
            store: AnyStore::default(),
            session_keep_alive: Arc::default(),
            quota: Quota::default(),
            streams,
            observers,
            stream_limits: StreamLimits::default(),
            live,
            housekeeper: Arc::default(),
            read_buffer: READ_BUFFER,
        }
    }
}
