//! The record log: one JSON object a line for each stream that has ended.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use serde_json::{Value, json};
use tower_sse_proxy::intercept::BodyShape;
use tower_sse_proxy::observe::{StreamObserver, StreamOutcome, StreamRecord};

use crate::admin::millis;

/// Writes each record at once.
pub struct RecordLog {
    output: Mutex<Box<dyn Write + Send>>,
    node: Option<String>,
}

impl RecordLog {
    /// Appends to a file, or writes to stdout if the path is `-`.
    pub fn open(path: &str, node: Option<String>) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = if path == "-" {
            Box::new(io::stdout())
        } else {
            Box::new(append(Path::new(path))?)
        };
        Ok(Self {
            output: Mutex::new(output),
            node,
        })
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl StreamObserver for RecordLog {
    fn closed(&self, record: &StreamRecord) {
        let mut line = to_json(record, self.node.as_deref()).to_string();
        line.push('\n');
        let mut output = self
            .output
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // One write, so that lines of several processes do not mix.
        let written = output
            .write_all(line.as_bytes())
            .and_then(|()| output.flush());
        if let Err(error) = written {
            tracing::error!("cannot write a record: {error}");
        }
    }
}

/// A record as a JSON object.
fn to_json(record: &StreamRecord, node: Option<&str>) -> Value {
    let time = |time: Option<Duration>| time.map(millis);
    let status = record.status.map(|status| status.as_u16());
    // The gateway answers 502 if the upstream does not answer.
    let status = status.or((record.outcome == StreamOutcome::UpstreamError).then_some(502));
    let mut json = json!({
        "outcome": record.outcome.as_str(),
        "ended_by": record.ended_by().as_str(),
        "shape": match record.shape {
            BodyShape::Json => "json",
            _ => "event_stream",
        },
        "route": record.route.as_deref().unwrap_or_default(),
        "method": record.method.as_str(),
        "status": status,
        "owner": record.owner.to_string(),
        "time_to_head_ms": time(record.time_to_head),
        "time_to_first_event_ms": time(record.time_to_first_event),
        "time_to_first_content_ms": time(record.time_to_first_content),
        "duration_ms": millis(record.duration),
        "events_in": record.events_in,
        "events_out": record.events_out,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "terminal_event": record.terminal_event,
        "resumes": record.resumes,
        "gaps": record.gaps,
        "lagged_readers": record.lagged_readers,
        "reconnects": record.reconnects,
        "held_ms_max": millis(record.held_max),
        "model": null,
        "finish_reason": null,
        "input_tokens": null,
        "output_tokens": null,
        "cached_input_tokens": null,
        "usage": null,
    });
    if let Some(model) = &record.model {
        json["model"] = json!(model.model);
        json["finish_reason"] = json!(model.finish_reason);
        json["input_tokens"] = json!(model.usage.input);
        json["output_tokens"] = json!(model.usage.output);
        json["cached_input_tokens"] = json!(model.usage.cached_input);
        json["usage"] = json!(model.usage.status.as_str());
    }
    if let Some(node) = node {
        json["node"] = json!(node);
    }
    json
}
