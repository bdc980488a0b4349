//! Observers: user code that sees how streams live and end.

use std::sync::Arc;

use super::{StreamInfo, StreamRecord, WatchdogEvent};
use crate::{intercept::catch, session::healed::Healed};

/// Sees how the event streams of a layer live and end. Install it with [`SseProxyLayer::observe`](crate::SseProxyLayer::observe).
///
/// All methods have empty defaults. They are called where the stream runs: they should take microseconds, and must not block. A panic
/// in one is caught and logged.
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

    /// A client that resumed a stream was told of a gap, or got an error status. `reason` is `evicted` (the missed events are no longer
    /// stored), `unknown` (no stream has such an event) or `failed` (the stream is lost). The stream is `None` if it is not known.
    fn gap(&self, stream: Option<&StreamInfo>, reason: &'static str) {
        let _ = (stream, reason);
    }

    /// The layer asks the upstream to continue the stream. `succeeded` is `None` when it asks, and the result later.
    fn reconnecting(&self, stream: &StreamInfo, succeeded: Option<bool>) {
        let _ = (stream, succeeded);
    }

    /// An MCP session was [healed](crate::profile::heal). Called once for each healing.
    fn healed(&self, session: &Healed) {
        let _ = session;
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

/// The observers of a layer.
#[derive(Clone, Default)]
pub(crate) struct Observers(Vec<Arc<dyn StreamObserver>>);

impl Observers {
    pub(crate) fn add(&mut self, observer: Arc<dyn StreamObserver>) {
        self.0.push(observer);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A function that tells the observers of a healed session. `None` if there are no observers.
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
        for observer in &self.0 {
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
