//! The queries of the dashboard and of the alerts name metrics and labels that exist.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../examples/gateway/grafana.json");
const ALERTS: &str = include_str!("../../examples/gateway/alerts.yml");

/// The guide that lists the metrics: a Markdown table with name, type and labels in its first columns.
const METRICS: &str = include_str!("../../docs/operating.md");

/// Labels that any series may have: those of all streams, of model APIs, of a bucket, and of the scraped process.
const COMMON_LABELS: [&str; 5] = ["route", "gen_ai_response_model", "le", "instance", "job"];

/// The series that Prometheus stores, and the labels of each.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let row = Regex::new(r"(?m)^\| `([a-z0-9_.]+)` \| (gauge|counter|histogram)[^|]*\|([^|]*)\|")
        .unwrap();
    let quoted = Regex::new("`([a-z_.]+)`").unwrap();
    let mut series = BTreeMap::new();
    for row in row.captures_iter(METRICS) {
        let name = row[1].replace('.', "_");
        let labels = quoted
            .captures_iter(&row[3])
            .map(|label| label[1].replace('.', "_"));
        let labels: BTreeSet<_> = labels.chain(COMMON_LABELS.map(str::to_owned)).collect();
        if &row[2] == "histogram" {
            for part in ["_bucket", "_sum", "_count"] {
                series.insert(format!("{name}{part}"), labels.clone());
            }
        } else {
            series.insert(name, labels);
        }
    }
    series
}

/// The queries in the dashboard: of its panels, and of its variables.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let panels = list(&dashboard["panels"]);
    let targets = panels.iter().flat_map(|panel| list(&panel["targets"]));
    let expressions = targets.map(|target| target["expr"].clone());
    let variables = list(&dashboard["templating"]["list"]);
    let of_variables = variables
        .iter()
        .map(|variable| variable["query"]["query"].clone());
    let queries = expressions.chain(of_variables);
    queries
        .filter_map(|query| query.as_str().map(str::to_owned))
        .collect()
}

/// The queries in the alerts, each on a separate line.
fn alert_queries() -> Vec<String> {
    let lines = ALERTS.lines().map(str::trim);
    let queries = lines.filter_map(|line| line.strip_prefix("expr: "));
    queries.map(str::to_owned).collect()
}

/// The faults in the names of a query.
fn wrong_names(query: &str) -> Vec<String> {
    let series = series();
    let mut wrong = Vec::new();
    let text = Regex::new(r#""[^"]*"|\[[^\]]*\]|label_values\(|, route\)$"#).unwrap();
    let query = text.replace_all(query, "");
    let mut labels = BTreeSet::new();
    let matchers = Regex::new(r"\{([^}]*)\}|\b(?:by|without|on|ignoring)\s*\(([^)]*)\)").unwrap();
    let name = Regex::new("[a-zA-Z_:][a-zA-Z0-9_:]*").unwrap();
    for group in matchers.captures_iter(&query) {
        let names = group.get(1).or(group.get(2)).unwrap().as_str();
        labels.extend(name.find_iter(names).map(|name| name.as_str().to_owned()));
    }
    let rest = matchers.replace_all(&query, "");
    let function = Regex::new(r"[a-z_]+\s*\(").unwrap();
    let rest = function.replace_all(&rest, "(");
    let names: BTreeSet<_> = name.find_iter(&rest).map(|name| name.as_str()).collect();
    // `sum by (..) (..)` leaves the name of the aggregation.
    let names = names.into_iter().filter(|name| *name != "sum");
    let mut known_labels = BTreeSet::new();
    for name in names {
        match series.get(name) {
            Some(labels) => known_labels.extend(labels.clone()),
            None => wrong.push(format!("no series {name}")),
        }
    }
    let unknown = labels.difference(&known_labels);
    wrong.extend(unknown.map(|label| format!("no label {label}")));
    wrong
}

#[test]
fn queries_of_the_dashboard_name_metrics_and_labels_that_exist() {
    let queries = dashboard_queries();
    assert!(queries.len() > 15, "{queries:#?}");
    for query in queries {
        assert_eq!(wrong_names(&query), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn queries_of_the_alerts_name_metrics_and_labels_that_exist() {
    let queries = alert_queries();
    let alerts = ALERTS.matches("- alert: ").count();
    assert_eq!(
        (queries.len(), ALERTS.matches("expr:").count()),
        (alerts, alerts)
    );
    for query in queries {
        assert_eq!(wrong_names(&query), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn wrong_names_are_found() {
    let wrong =
        wrong_names(r#"sum by (outcom, route) (rate(sse_stream_count{colour="x"}[5m])) > 0.5"#);
    assert_eq!(
        wrong,
        [
            "no series sse_stream_count",
            "no label colour",
            "no label outcom",
            "no label route"
        ]
    );
    // A histogram has no series of its plain name.
    assert_eq!(wrong_names("sse_hold_duration_seconds").len(), 1);
}

#[test]
fn dashboard_shows_each_metric_of_streams() {
    let queries = dashboard_queries().join("\n");
    let names = series().into_keys().filter(|name| name.starts_with("sse_"));
    let parts = ["_bucket", "_sum", "_count"];
    let names = names.map(|name| {
        let plain = parts.iter().find_map(|part| name.strip_suffix(part));
        plain.unwrap_or(&name).to_owned()
    });
    let names: BTreeSet<_> = names.collect();
    assert!(names.len() > 10, "{names:?}");
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !queries.contains(*name))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}
