//! The metrics in the text format of Prometheus, with the number of tasks.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Handle;

/// How often the samples of histograms are moved into their buckets. They pile up until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// The number of tasks of the runtime. It grows with connections and recorded streams, and falls when they end.
const TASKS: &str = "tokio_alive_tasks";

/// Returns a function that renders all metrics.
pub fn render(exporter: PrometheusHandle) -> impl Fn() -> String + Clone + Send + Sync {
    let upkeep = exporter.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let tasks = metrics::gauge!(TASKS);
    let runtime = Handle::current().metrics();
    move || {
        tasks.set(runtime.num_alive_tasks() as f64);
        exporter.render()
    }
}
