//! Replay: what a stream has sent, for clients that come back.
//!
//! Here is the part without I/O: the [log](Log) of one stream, which is the only owner of "which event was last", and the
//! [ids](EventId) by which clients name where they are in it. A live tail, a replay, a slow client and one of many are the same
//! read of it at another place. The layer does not use it yet.
//!
//! ```
//! use tokio::time::Instant;
//! use tower_sse_proxy::replay::{Bounds, Located, Log, Read};
//!
//! let now = Instant::now();
//! let mut log = Log::new(Bounds::default().events(2));
//! let one = log.append("id: a\ndata: 1\n\n".into(), now);
//! let two = log.append("id: b\ndata: 2\n\n".into(), now);
//! log.append("id: c\ndata: 3\n\n".into(), now);
//!
//! // There is room for two, and after the one that had to go comes the second.
//! let Located::After(cursor) = log.locate(one) else { panic!() };
//! let Read::Block(block, cursor) = log.read(cursor) else { panic!() };
//! assert_eq!(block, "id: b\ndata: 2\n\n");
//!
//! log.append("id: d\ndata: 4\n\n".into(), now);
//! assert_eq!(log.locate(one), Located::Evicted);
//! assert!(matches!(log.locate(two), Located::After(again) if again == cursor));
//! ```

mod id;
mod log;

pub use id::{EventId, MalformedEventId, Position, Token};
pub use log::{Bounds, Cursor, Located, Log, Read, State};
