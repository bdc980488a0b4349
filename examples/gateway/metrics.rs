//! The metrics in the text format of Prometheus.

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

/// How often the samples of histograms are moved into their buckets. They pile up until then.
const UPKEEP: Duration = Duration::from_secs(5);

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
    move || exporter.render()
}
