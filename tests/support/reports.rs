//! Collects the `tracing` events that the layer emits.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Dispatch, Event, Level, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt};

/// The level and the fields of one event.
#[derive(Clone, Debug)]
pub struct Report {
    pub level: Level,
    pub fields: BTreeMap<String, String>,
}

impl Report {
    pub fn reason(&self) -> &str {
        &self.fields["reason"]
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// Collects the layer's events on the current thread until it is dropped.
pub struct Reports {
    seen: Arc<Mutex<Vec<Report>>>,
    _guard: DefaultGuard,
}

/// Starts to collect the layer's events on the current thread.
pub fn reports() -> Reports {
    let seen = Arc::<Mutex<Vec<Report>>>::default();
    let collector = Collector(Arc::clone(&seen));
    let subscriber = tracing_subscriber::registry().with(collector);
    Reports {
        seen,
        _guard: subscribe(subscriber),
    }
}

/// Sends the events of this thread to a subscriber until the guard is dropped.
///
/// A subscriber for the whole process, which records nothing, keeps all events enabled. Without it, a thread that has no subscriber
/// can disable an event for all threads when it uses the event first.
pub fn subscribe(subscriber: impl Into<Dispatch>) -> DefaultGuard {
    static ENABLE: Once = Once::new();
    ENABLE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    });
    tracing::dispatcher::set_default(&subscriber.into())
}

impl Reports {
    /// The events since the last call.
    pub fn take(&self) -> Vec<Report> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// The `reason` fields of the events since the last call.
    pub fn reasons(&self) -> Vec<String> {
        let reports = self.take();
        let reasons = reports.iter().map(|report| report.reason().to_owned());
        reasons.collect()
    }

    /// The event since the last call. Panics unless there is exactly one.
    pub fn only(&self) -> Report {
        let mut reports = self.take();
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports.remove(0)
    }
}

struct Collector(Arc<Mutex<Vec<Report>>>);

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("tower_sse_proxy") {
            return;
        }
        let mut report = Report {
            level: *event.metadata().level(),
            fields: BTreeMap::new(),
        };
        event.record(&mut report);
        self.0.lock().unwrap().push(report);
    }
}

impl Visit for Report {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        self.fields.insert(field.name().to_owned(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields
            .insert(field.name().to_owned(), value.to_owned());
    }
}
