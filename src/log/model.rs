//! A recorded stream of numbers, for the model checker: compiled only with `--cfg loom`, and driven by the package `models`.
//!
//! The log, its writer and its readers are the crate's own, with loom's lock in place of the standard library's.

#![allow(missing_docs, reason = "only the package `models` sees this module")]

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::log::{
    Cursor, CursorLookup, Ending, LogState, Position, Retention, SharedLog, StartAt, WriteDemand,
    shared_log::{ReadOutcome, Spare},
};
use crate::{
    codec::ChunkSlice,
    error::{Error, ErrorKind},
};

/// A stream of numbers: 0, 1, 2 ...
#[derive(Clone)]
pub struct Stream {
    channel: Arc<SharedLog>,
    /// There is no time here.
    now: Instant,
}

/// Somebody who reads.
pub struct Reader {
    stream: Stream,
    seat: usize,
}

/// A place to read on from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At(Cursor);

/// What somebody who comes back is told.
#[derive(Debug, PartialEq)]
pub enum Found {
    At(At),
    /// All that there is has been read, and another answer may follow.
    Suspended(At),
    Over(At),
    Gap,
}

/// What a reader got.
#[derive(Debug, PartialEq)]
pub enum Read {
    Numbers(Vec<u64>),
    End,
    Lagged,
    Aborted,
}

impl Stream {
    /// Keeps so many numbers.
    pub fn new(events: usize) -> Self {
        let bounds = Retention::default().events(events).age(Duration::MAX);
        let now = Instant::now();
        let channel = Arc::new(SharedLog::new(bounds, now));
        Self { channel, now }
    }

    /// As [`new`](Self::new), with so many numbers in it already.
    pub fn with(events: usize, numbers: u64) -> Self {
        let stream = Self::new(events);
        stream.write(numbers);
        stream
    }

    /// The next so many numbers.
    pub fn write(&self, numbers: u64) {
        let next = self.channel.next_position().sequence;
        let blocks = (next..next + numbers).map(|number| {
            (
                ChunkSlice::from(Bytes::from(format!("data: {number}\n\n"))),
                true,
            )
        });
        self.channel.write(blocks, self.now);
    }

    /// Writes until there are so many, never more than is asked for. Whether it came to that.
    pub async fn write_until(&self, numbers: u64) -> bool {
        loop {
            let written = self.channel.next_position().sequence;
            if written >= numbers {
                return true;
            }
            match poll_fn(|cx| self.poll_demand(cx)).await {
                Some(most) => self.write(most.min(numbers - written)),
                None => return false,
            }
        }
    }

    /// How much may be written; none if the writer is to give up.
    pub fn poll_demand(&self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        match self.channel.poll_demand(cx, 0) {
            WriteDemand::Write { blocks, .. } => Poll::Ready(Some(blocks)),
            WriteDemand::Wait => Poll::Pending,
            WriteDemand::Stop => Poll::Ready(None),
        }
    }

    pub fn complete(&self) {
        self.channel.end(LogState::Complete, Ending::Clean(None));
    }

    pub fn suspend(&self) {
        self.channel.suspend(Ending::Clean(None));
    }

    pub fn fail(&self) {
        let aborted = Arc::new(Error::new(ErrorKind::Aborted));
        self.channel.end(LogState::Failed, Ending::Broken(aborted));
    }

    pub fn go_on(&self) -> bool {
        self.channel.resume()
    }

    pub fn abort(&self) {
        self.channel.abort();
    }

    /// Makes room for others.
    pub fn shrink(&self) {
        self.channel.shrink(1, Spare::UnreadByAll);
    }

    pub fn oldest(&self) -> At {
        At(self.channel.oldest())
    }

    /// Where somebody is who has this number.
    pub fn after(&self, number: u64) -> Found {
        match self.channel.locate(Position {
            epoch: 0,
            sequence: number,
        }) {
            CursorLookup::At(cursor) => Found::At(At(cursor)),
            CursorLookup::Tail(LogState::Suspended, cursor) => Found::Suspended(At(cursor)),
            CursorLookup::Tail(_, cursor) => Found::Over(At(cursor)),
            CursorLookup::Evicted | CursorLookup::Unknown => Found::Gap,
        }
    }

    /// From what is written next, if anything is.
    pub fn read_live(&self) -> Option<Reader> {
        let seat = self.channel.join_live(StartAt::Live)?;
        let stream = self.clone();
        Some(Reader { stream, seat })
    }

    pub fn read(&self, At(cursor): At) -> Reader {
        Reader {
            seat: self.channel.join(cursor),
            stream: self.clone(),
        }
    }
}

impl Reader {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        let mut blocks = Vec::new();
        let channel = &self.stream.channel;
        channel
            .poll_read(self.seat, cx, usize::MAX, &mut blocks)
            .map(|got| match got {
                ReadOutcome::Blocks => Read::Numbers(blocks.iter().flat_map(numbers).collect()),
                ReadOutcome::End(_) => Read::End,
                ReadOutcome::Failed(error) if error.kind() == ErrorKind::Lagged => Read::Lagged,
                ReadOutcome::Failed(_) => Read::Aborted,
            })
    }

    pub async fn next(&mut self) -> Read {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// All numbers, and then what came in their place.
    pub async fn rest(&mut self) -> (Vec<u64>, Read) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Read::Numbers(more) => all.extend(more),
                over => return (all, over),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stream.channel.leave(self.seat, self.stream.now);
    }
}

/// What stands in blocks that lie side by side.
fn numbers(blocks: &ChunkSlice) -> Vec<u64> {
    let text = String::from_utf8(blocks.bytes().to_vec()).expect("numbers");
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines
        .map(|number| number.parse().expect("a number"))
        .collect()
}
