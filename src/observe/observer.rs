//! Observers: user code that the layer calls when a stream opens, makes progress and ends.

use std::{sync::Arc, time::Duration};

use super::{StreamInfo, StreamProgress, StreamRecord, WatchdogEvent};
use crate::{intercept::catch, session::healed::Healed};

/// User code that the layer calls when an event stream opens, makes progress and ends. Install it with
/// [`SseProxyLayer::observe`](crate::SseProxyLayer::observe).
///
/// All methods have empty defaults. The layer calls them in the task of the stream: they should take microseconds, and must not block. The
/// layer catches and logs a panic in a method.
///
/// ```
/// use tower_sse_proxy::{SseProxyLayer, observe::{StreamObserver, StreamRecord}};
///
/// struct Audit;
///
/// impl StreamObserver for Audit {
///     fn closed(&self, record: &StreamRecord) {
///         println!("{} after {:?}, {} events", record.outcome, record.duration, record.events_out);
///     }
/// }
///
/// let layer = SseProxyLayer::default().observe(Audit);
/// ```
pub trait StreamObserver: Send + Sync + 'static {
    /// An event stream was opened: the layer has its response head, and reads its body.
    fn opened(&self, stream: &StreamInfo) {
        let _ = stream;
    }

    /// The first complete event of the upstream has arrived.
    fn first_event(&self, stream: &StreamInfo) {
        let _ = stream;
    }

    /// A client resumed the stream.
    fn resumed(&self, stream: &StreamInfo) {
        let _ = stream;
    }

    /// A client that resumed a stream got a gap event or an error status. `reason` is `evicted` (the missed events are no longer
    /// stored), `unknown` (no stream has such an event) or `failed` (the stream is lost). The stream is `None` if it is not known.
    fn gap(&self, stream: Option<&StreamInfo>, reason: &'static str) {
        let _ = (stream, reason);
    }

    /// The layer reconnects to the upstream to continue the stream. Called when an attempt begins (`succeeded` is `None`), and when its
    /// result is known.
    fn reconnecting(&self, stream: &StreamInfo, succeeded: Option<bool>) {
        let _ = (stream, succeeded);
    }

    /// An MCP session was [healed](crate::profile::heal). Called once for each healing.
    fn healed(&self, session: &Healed) {
        let _ = session;
    }

    /// An event has waited this long for the deferred verdict of an interceptor. Called when the wait has ended.
    fn held(&self, stream: &StreamInfo, held: Duration) {
        let _ = (stream, held);
    }

    /// Returns the interval between calls of [`progress`](Self::progress), [`log_bytes`](Self::log_bytes) and [`log_lag`](Self::log_lag).
    /// With `None`, the default, the layer does not call them.
    ///
    /// Called once, when the observer is installed. Values below 10 ms count as 10 ms.
    fn progress_interval(&self) -> Option<Duration> {
        None
    }

    /// Reports the events and bytes that a stream has moved since the last call for this stream. Called at the
    /// [interval](Self::progress_interval) for each stream that has moved any, and at its end. The calls for one stream add up to the
    /// counts in its record.
    ///
    /// Outside of a tokio runtime it is called only at the end of a stream.
    fn progress(&self, stream: &StreamInfo, moved: &StreamProgress) {
        let _ = (stream, moved);
    }

    /// Reports by how many bytes the memory of all logs of the layer has changed since the last call. Called at the
    /// [interval](Self::progress_interval), until the layer has no open stream and no log. The sum of all changes is
    /// `Streams::retained_bytes`, and 0 once the layer is dropped.
    fn log_bytes(&self, change: i64) {
        let _ = change;
    }

    /// Reports how far the slowest connected client lags behind the log that it reads: the age of the oldest event that it has not
    /// read. Zero if all clients have read everything. Called at the [interval](Self::progress_interval) while the layer has logs.
    fn log_lag(&self, lag: Duration) {
        let _ = lag;
    }

    /// A call to the session store has ended. `operation` is `lookup`, `bind`, `rebind`, `touch` or `remove`. `result` is `ok` (also if the
    /// store has no such session), `failed`, `timed_out`, `panicked` or `invalid` (the store answered with another session).
    ///
    /// A call that is abandoned, because its client disconnected, is not reported.
    fn store_called(&self, operation: &'static str, result: &'static str, duration: Duration) {
        let _ = (operation, result, duration);
    }

    /// A watchdog has fired.
    fn watchdog(&self, event: &WatchdogEvent) {
        let _ = event;
    }

    /// The stream has ended. Called exactly once for each stream that was [opened](Self::opened), also when its client disconnects, its
    /// task is dropped, its runtime shuts down or an interceptor panics. Also called once for each request for an event stream that the
    /// layer answers itself, and for each that the upstream fails to answer; `opened` was not called for these.
    fn closed(&self, record: &StreamRecord) {
        let _ = record;
    }
}

/// The shortest interval of progress reports.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(10);

/// The observers of a layer.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    all: Vec<Arc<dyn StreamObserver>>,
    /// The shortest interval that an observer wants.
    progress_interval: Option<Duration>,
}

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn StreamObserver>) {
        let interval = observer.progress_interval();
        let interval = interval.map(|interval| interval.max(MIN_PROGRESS_INTERVAL));
        let intervals = [self.progress_interval, interval];
        self.progress_interval = intervals.into_iter().flatten().min();
        self.all.push(observer);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How often progress is reported to observers. `None` for never.
    pub(crate) fn progress_interval(&self) -> Option<Duration> {
        self.progress_interval
    }

    /// Returns a function that reports a healed session to the observers. `None` if there are no observers.
    #[cfg(feature = "sessions")]
    pub(crate) fn on_healed(&self) -> Option<crate::session::OnHealed> {
        if self.is_empty() {
            return None;
        }
        let observers = self.clone();
        Some(crate::session::OnHealed::new(move |healed| {
            observers.each(|observer| observer.healed(healed));
        }))
    }

    /// Calls each observer, and catches panics.
    pub(crate) fn each(&self, call: impl Fn(&dyn StreamObserver)) {
        for observer in &self.all {
            if catch(|| call(&**observer)).is_err() {
                tracing::error!("an observer of event streams panicked");
            }
        }
    }
}

/// An observer that calls a function for each record.
pub(crate) struct OnClose<F>(pub(crate) F);

impl<F: Fn(&StreamRecord) + Send + Sync + 'static> StreamObserver for OnClose<F> {
    fn closed(&self, record: &StreamRecord) {
        (self.0)(record);
    }
}
