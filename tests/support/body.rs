//! A body that follows a script. It panics if the caller breaks the contract of `http_body::Body`.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The result of one poll of a [`Script`].
#[derive(Clone, Debug)]
pub enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Returns `Pending` once and wakes the task immediately.
    Later,
    /// Returns `Pending` on every poll and never wakes the task.
    Never,
    Error,
}

/// The error of a [`Script`].
#[derive(Debug, PartialEq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

/// A body that yields its steps in order and then ends. Panics if it is polled after its end or after an error.
#[derive(Debug)]
pub struct Script {
    steps: VecDeque<Step>,
    over: bool,
    taken: Taken,
}

/// Reports the progress of a [`Script`], also after the script has been dropped.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    frames: Arc<AtomicUsize>,
    dropped: Arc<AtomicBool>,
}

impl Taken {
    pub fn frames(&self) -> usize {
        self.frames.load(Ordering::SeqCst)
    }

    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }
}

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            over: false,
            taken: Taken::default(),
        }
    }

    /// A script with one data frame for each item.
    pub fn of<T: Into<Bytes>>(frames: impl IntoIterator<Item = T>) -> Self {
        Self::new(frames.into_iter().map(|frame| Step::Data(frame.into())))
    }

    pub fn then(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    pub fn taken(&self) -> Taken {
        self.taken.clone()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        assert!(!self.over, "body polled after its end");
        let frame = match self.steps.pop_front() {
            Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Later) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Never) => {
                self.steps.push_front(Step::Never);
                return Poll::Pending;
            }
            Some(Step::Error) => Some(Err(Broken)),
            None => None,
        };
        self.over = !matches!(frame, Some(Ok(_)));
        self.taken.frames.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.steps.iter().map(|step| match step {
            Step::Data(data) => data.len() as u64,
            _ => 0,
        });
        SizeHint::with_exact(data.sum())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.taken.dropped.store(true, Ordering::SeqCst);
    }
}
