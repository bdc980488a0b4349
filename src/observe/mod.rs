//! Reports about event streams for operators: one [record](StreamRecord) for each stream at its end, and [observers](StreamObserver) that
//! the layer calls while streams run.
//!
//! ```
//! use tower_sse_proxy::SseProxyLayer;
//!
//! let layer = SseProxyLayer::default()
//!     .on_close(|record| println!("{}: {} after {:?}", record.owner, record.outcome, record.duration));
//! ```

mod admission;
mod class;
mod counters;
mod info;
mod live_stream;
mod live_streams;
#[cfg(feature = "metrics")]
mod metrics;
mod observer;
mod open_streams;
mod outcome;
mod progress;
mod record;
mod report;
mod request;
mod tap;
mod watchdog_event;

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::metrics::{DURATION_BUCKETS, Metrics};
pub use class::EventClass;
pub use info::StreamInfo;
pub use observer::StreamObserver;
pub use outcome::{EndedBy, StreamOutcome};
pub use progress::StreamProgress;
pub use record::{ModelFamily, ModelReport, StreamRecord, TokenUsage, UsageStatus};
pub use tap::{Tap, TapSide, TappedBlock};
pub use watchdog_event::{WatchdogEvent, WatchdogKind};

pub use crate::rejection::RejectionReason;

pub(crate) use admission::{Refused, StreamLimits, StreamSlot};
pub(crate) use info::StreamOrigin;
pub(crate) use live_stream::{LiveStream, StreamControl};
pub(crate) use live_streams::LiveStreams;
pub(crate) use observer::{Observers, OnClose};
pub(crate) use outcome::StreamEnded;
#[cfg(feature = "replay")]
pub(crate) use report::log_lagged;
pub(crate) use report::{StreamReport, log_json, log_panicked, log_rejected};
pub(crate) use request::{InspectedJson, ObservedRequest};
