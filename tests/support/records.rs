//! Collects the records of streams, and the watchdogs that fire.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Mutex, mpsc};
use tower_sse_proxy::{
    SseProxyLayer,
    observe::{
        StreamInfo, StreamObserver, StreamOutcome, StreamRecord, WatchdogEvent, WatchdogKind,
    },
};

use super::{origin::settle, soon};

/// The records and watchdog events of a layer, in order.
#[derive(Clone)]
pub struct Records {
    records: Arc<Mutex<mpsc::UnboundedReceiver<StreamRecord>>>,
    fired: Arc<std::sync::Mutex<Vec<WatchdogEvent>>>,
    opened: Arc<AtomicUsize>,
}

struct Collector {
    records: mpsc::UnboundedSender<StreamRecord>,
    fired: Arc<std::sync::Mutex<Vec<WatchdogEvent>>>,
    opened: Arc<AtomicUsize>,
}

impl StreamObserver for Collector {
    fn opened(&self, _: &StreamInfo) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    fn watchdog(&self, event: &WatchdogEvent) {
        self.fired.lock().unwrap().push(event.clone());
    }

    fn closed(&self, record: &StreamRecord) {
        let _ = self.records.send(record.clone());
    }
}

/// Adds an observer to the layer.
pub fn recorded<R>(layer: SseProxyLayer<R>) -> (SseProxyLayer<R>, Records) {
    let (sender, records) = mpsc::unbounded_channel();
    let (fired, opened) = (Arc::default(), Arc::default());
    let collector = Collector {
        records: sender,
        fired: Arc::clone(&fired),
        opened: Arc::clone(&opened),
    };
    let records = Records {
        records: Arc::new(Mutex::new(records)),
        fired,
        opened,
    };
    (layer.observe(collector), records)
}

impl Records {
    /// Waits for the next record.
    pub async fn next(&self) -> StreamRecord {
        let mut records = self.records.lock().await;
        soon(records.recv()).await.unwrap()
    }

    /// As [`next`](Self::next), without a limit, for a paused clock.
    pub async fn next_on_paused_clock(&self) -> StreamRecord {
        self.records.lock().await.recv().await.unwrap()
    }

    /// The records so far, once all ready tasks have run.
    pub async fn take(&self) -> Vec<StreamRecord> {
        settle().await;
        self.now()
    }

    /// The records so far.
    pub fn now(&self) -> Vec<StreamRecord> {
        let mut records = self.records.try_lock().unwrap();
        std::iter::from_fn(|| records.try_recv().ok()).collect()
    }

    /// The outcomes of the records so far, once all ready tasks have run.
    pub async fn outcomes(&self) -> Vec<StreamOutcome> {
        let records = self.take().await;
        records.iter().map(|record| record.outcome).collect()
    }

    /// The record so far, once all ready tasks have run. Panics unless there is exactly one.
    pub async fn only(&self) -> StreamRecord {
        let mut records = self.take().await;
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    /// The number of streams that were opened.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// The watchdogs that have fired since the last call.
    pub fn fired(&self) -> Vec<WatchdogKind> {
        let fired = std::mem::take(&mut *self.fired.lock().unwrap());
        fired.iter().map(|event| event.kind).collect()
    }
}
