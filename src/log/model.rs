//! A recorded stream of numbers for models of concurrency. Compiled with `--cfg loom` only; the package `models` uses it.
//!
//! It runs the [`SharedLog`] of the crate with the lock of loom.

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
    Cursor, CursorLookup, Ending, LogState, Position, Protected, Retention, SharedLog, StartAt,
    WriteDemand, shared_log::ReadOutcome,
};
use crate::{
    codec::ChunkSlice,
    error::{Error, ErrorKind},
};

/// A recorded stream of the numbers 0, 1, 2 and so on.
#[derive(Clone)]
pub struct Stream {
    log: Arc<SharedLog>,
    /// Time does not pass in a model.
    now: Instant,
}

/// A subscriber of the stream. Dropping it unsubscribes.
pub struct Reader {
    stream: Stream,
    subscriber: usize,
}

/// A cursor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At(Cursor);

/// The position of a client that resumes.
#[derive(Debug, PartialEq)]
pub enum Found {
    At(At),
    /// At the end of a suspended stream.
    Suspended(At),
    /// At the end of an ended stream.
    Ended(At),
    Gap,
}

/// The result of a read.
#[derive(Debug, PartialEq)]
pub enum Read {
    Numbers(Vec<u64>),
    End,
    Lagged,
    Aborted,
}

impl Stream {
    /// A stream whose log keeps this many numbers.
    pub fn new(events: usize) -> Self {
        let retention = Retention::default().events(events).age(Duration::MAX);
        let now = Instant::now();
        let log = Arc::new(SharedLog::new(retention, now));
        Self { log, now }
    }

    /// A stream in which this many numbers are written.
    pub fn with(events: usize, numbers: u64) -> Self {
        let stream = Self::new(events);
        stream.write(numbers);
        stream
    }

    /// Writes this many numbers.
    pub fn write(&self, numbers: u64) {
        let next = self.log.next_position().sequence;
        let blocks = (next..next + numbers).map(|number| {
            (
                ChunkSlice::from(Bytes::from(format!("data: {number}\n\n"))),
                true,
            )
        });
        self.log.write(blocks, self.now);
    }

    /// Writes until this many numbers are written, within the demand. Returns false if the stream was aborted first.
    pub async fn write_until(&self, numbers: u64) -> bool {
        loop {
            let written = self.log.next_position().sequence;
            if written >= numbers {
                return true;
            }
            match poll_fn(|cx| self.poll_demand(cx)).await {
                Some(most) => self.write(most.min(numbers - written)),
                None => return false,
            }
        }
    }

    /// How many numbers the writer may write. `None` if the stream was aborted.
    pub fn poll_demand(&self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        match self.log.poll_demand(cx, 0) {
            WriteDemand::Write { blocks, .. } => Poll::Ready(Some(blocks)),
            WriteDemand::Wait => Poll::Pending,
            WriteDemand::Stop => Poll::Ready(None),
        }
    }

    pub fn complete(&self) {
        self.log.end(LogState::Complete, Ending::Clean(None));
    }

    pub fn suspend(&self) {
        self.log.suspend(Ending::Clean(None));
    }

    pub fn fail(&self) {
        let aborted = Arc::new(Error::new(ErrorKind::Aborted));
        self.log.end(LogState::Failed, Ending::Broken(aborted));
    }

    /// Continues a suspended stream. Returns false if it is not suspended.
    pub fn resume(&self) -> bool {
        self.log.resume()
    }

    pub fn abort(&self) {
        self.log.abort();
    }

    /// Evicts a number for another stream.
    pub fn evict(&self) {
        self.log.evict(1, Protected::UnreadByAll);
    }

    pub fn oldest(&self) -> At {
        At(self.log.oldest())
    }

    /// The position of a client that has received this number.
    pub fn after(&self, number: u64) -> Found {
        match self.log.locate(Position {
            epoch: 0,
            sequence: number,
        }) {
            CursorLookup::At(cursor) => Found::At(At(cursor)),
            CursorLookup::Tail(LogState::Suspended, cursor) => Found::Suspended(At(cursor)),
            CursorLookup::Tail(_, cursor) => Found::Ended(At(cursor)),
            CursorLookup::Evicted | CursorLookup::Unknown => Found::Gap,
        }
    }

    /// Reads from the next number on. `None` if the stream is not live.
    pub fn read_live(&self) -> Option<Reader> {
        let subscriber = self.log.join(StartAt::Live)?;
        let stream = self.clone();
        Some(Reader { stream, subscriber })
    }

    pub fn read(&self, At(cursor): At) -> Reader {
        Reader {
            subscriber: self.log.subscribe(cursor),
            stream: self.clone(),
        }
    }
}

impl Reader {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        let mut blocks = Vec::new();
        let log = &self.stream.log;
        log.poll_read(self.subscriber, cx, usize::MAX, &mut blocks)
            .map(|read| match read {
                ReadOutcome::Blocks => Read::Numbers(blocks.iter().flat_map(numbers).collect()),
                ReadOutcome::End(_) => Read::End,
                ReadOutcome::Failed(error) if error.kind() == ErrorKind::Lagged => Read::Lagged,
                ReadOutcome::Failed(_) => Read::Aborted,
            })
    }

    pub async fn next(&mut self) -> Read {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Reads all numbers up to the end or a failure.
    pub async fn rest(&mut self) -> (Vec<u64>, Read) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Read::Numbers(more) => all.extend(more),
                end => return (all, end),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stream
            .log
            .unsubscribe(self.subscriber, self.stream.now);
    }
}

/// The numbers in neighboring blocks.
fn numbers(blocks: &ChunkSlice) -> Vec<u64> {
    let text = String::from_utf8(blocks.bytes().to_vec()).expect("numbers");
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines
        .map(|number| number.parse().expect("a number"))
        .collect()
}
