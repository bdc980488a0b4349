//! A recorder of the facade `metrics` that tests can read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// The values recorded on this thread since [`recorder`] was called.
#[derive(Clone, Default)]
pub struct Recorded {
    series: Arc<Mutex<BTreeMap<Series, Arc<Values>>>>,
    described: Arc<Mutex<BTreeSet<String>>>,
}

/// A name and its labels.
type Series = (String, BTreeMap<String, String>);

/// The values of a histogram, or the one value of a counter or a gauge.
#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

/// Records the metrics of this thread until the guard is dropped.
pub fn recorder() -> (Recorded, metrics::LocalRecorderGuard<'static>) {
    let recorded = Recorded::default();
    // Leaked, because the guard borrows it.
    let recorder = Box::leak(Box::new(recorded.clone()));
    (recorded, metrics::set_default_local_recorder(recorder))
}

impl Recorded {
    /// The sum of all values with this name and these labels, and any others.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).iter().sum()
    }

    /// All values with this name and these labels, and any others.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let series = self.series.lock().unwrap();
        let matching = series.iter().filter(|((of, has), _)| {
            let mut labels = labels.iter();
            of == name && labels.all(|(label, value)| has.get(*label).is_some_and(|v| v == value))
        });
        let values = matching.map(|(_, values)| values.0.lock().unwrap().clone());
        values.flatten().collect()
    }

    /// The names of all metrics that have values.
    pub fn names(&self) -> BTreeSet<String> {
        let series = self.series.lock().unwrap();
        series.keys().map(|(name, _)| name.clone()).collect()
    }

    /// The names of all metrics that were described.
    pub fn described(&self) -> BTreeSet<String> {
        self.described.lock().unwrap().clone()
    }

    /// The values of a label of a metric.
    pub fn labels(&self, name: &str, label: &str) -> BTreeSet<String> {
        let series = self.series.lock().unwrap();
        let series = series.keys().filter(|(of, _)| of == name);
        let values = series.filter_map(|(_, labels)| labels.get(label).cloned());
        values.collect()
    }

    /// All values of all labels.
    pub fn all_labels(&self) -> BTreeSet<String> {
        let series = self.series.lock().unwrap();
        let labels = series.keys().flat_map(|(_, labels)| labels.values());
        labels.cloned().collect()
    }

    fn get(&self, key: &Key) -> Arc<Values> {
        let labels = key.labels().map(|label| {
            let (name, value) = (label.key(), label.value());
            (name.to_owned(), value.to_owned())
        });
        let series = (key.name().to_owned(), labels.collect());
        Arc::clone(self.series.lock().unwrap().entry(series).or_default())
    }

    fn describe(&self, key: &KeyName) {
        self.described
            .lock()
            .unwrap()
            .insert(key.as_str().to_owned());
    }
}

impl Values {
    fn add(&self, value: f64) {
        let mut values = self.0.lock().unwrap();
        match values.first_mut() {
            Some(sum) => *sum += value,
            None => values.push(value),
        }
    }
}

impl CounterFn for Values {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _: u64) {
        unimplemented!("the crate only increments counters")
    }
}

impl GaugeFn for Values {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, _: f64) {
        unimplemented!("layers share the gauges")
    }
}

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.describe(&key);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.get(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.get(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.get(key))
    }
}
