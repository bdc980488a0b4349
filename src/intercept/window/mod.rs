//! A window on text that is split over events.
//!
//! A model's answer arrives a few letters an event, so what must not pass is never in one event alone. A [`TextWindow`] joins
//! the letters of each text, shows them to a [`Judge`] before they leave, and carries out its judgement in the events that
//! brought them: what was not changed leaves as it came.
//!
//! ```
//! use std::time::Duration;
//! use tower_sse_proxy::{SseProxyLayer, intercept::window::{Decision, TextSegment, TextWindow}};
//!
//! let names = TextWindow::new(|passage: &TextSegment| {
//!     let found = passage.text.match_indices("Alice");
//!     Decision::mask(found.map(|(at, name)| at..at + name.len()), "[name]")
//! })
//! .overlap("Alice".len())
//! .max_delay(Duration::from_millis(200));
//! let layer = SseProxyLayer::default().intercept(names);
//! ```
//!
//! # Patterns
//!
//! With the feature `patterns`, `patterns` makes a judge of phrases, regular expressions, card numbers and e-mail addresses.
//! It knows at which byte a match may be in progress: text before that byte leaves at once, and the rest waits until it is
//! decided. No part of a match leaves, however slowly the text comes, and text that cannot begin a match is not delayed.
//! Any other judge can answer in the same way, with [`Decision::Hold`].
//!
//! # What is seen, and when it leaves
//!
//! * A text is a **channel**: one choice, one content block, the arguments of one tool call. What belongs to a channel is
//!   told by an [`TextExtractor`]; [`extract`] has those of OpenAI's chat completions and Responses, Anthropic's messages,
//!   Gemini, and plain data, and by default they are told apart by themselves. Every other string of an event is judged
//!   by itself.
//! * An event waits until [`overlap`](TextWindow::overlap) more bytes of its text have come, so that anything of at most that
//!   size is seen whole before its first letter leaves. It never waits longer than [`time`](TextWindow::max_delay); what then
//!   still lacks its end leaves, and the judge sees it again, as [sent](TextSegment::sent), with what comes. (With patterns
//!   neither of the two holds unless it is set.)
//! * An event waits for all of its text, and leaves whole.
//! * A stream that ends cleanly ends its texts: what was held is judged as [complete](TextSegment::complete). Of a stream that
//!   breaks, text that was held as the possible beginning of a match does not leave.
//! * Text that has to leave before it is decided, since [`time`](TextWindow::max_delay) or [`max_bytes`](TextWindow::max_held_bytes) ran out,
//!   is counted ([`TextWindow::early_releases`]) and logged, as its size.
//! * Order is kept, over all channels: an event that waits holds up those behind it.
//! * Every string value is judged as readers read it: escapes undone, unpaired surrogates included, at any depth and under
//!   any name. A string may hold JSON itself, such as the arguments of a tool call: a text with escapes is judged a second
//!   time with those undone. Data that is not JSON is judged as it is, and with the escapes of one and of two layers undone.
//!   A judge that is asked twice about a text has to let both readings pass: what it holds, masks or blocks in one of them
//!   is held, masked or blocked.
//! * What cannot be read in one way only (an object that has a name twice, JSON nested more than 32 deep, an index that may
//!   or may not be the same as a number) is a failure of the interceptor: the stream is cut.
//! * A text that continues after its end is the same text. The last 1024 that ended are remembered at least.
//! * When a text is masked, members of its event that tell it again token by token (`logprobs`) are emptied.
//! * Names of object members, comments, and the `event` and `id` fields are not text, and are not judged.

mod batch;
mod channel;
mod edit;
pub mod extract;
mod find;
mod held;
mod judge;
mod part;
#[cfg(feature = "patterns")]
mod patterns;
mod questions;
mod reading;
mod scan;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use tokio::{sync::oneshot, time::Instant};
use tower::{BoxError, Service};

pub use extract::{TextExtractor, Texts};
pub use judge::{Decision, Judge, JudgeService, Mask, Ruling, TextSegment};
#[cfg(feature = "patterns")]
#[cfg_attr(docsrs, doc(cfg(feature = "patterns")))]
pub use patterns::{Pattern, PatternError, Patterns, patterns};

use super::{Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict};
use crate::{
    codec::{Block, Event},
    error::{Error, ErrorKind},
};
use batch::{Batch, Early, Rest, Settled};
use held::{Due, Held, Sight};

/// Holds text back until it has been judged. See the [module](self).
#[derive(Clone)]
pub struct TextWindow {
    setting: Setting,
}

#[derive(Clone)]
struct Setting {
    judge: Arc<dyn Judge>,
    extract: Arc<dyn TextExtractor>,
    sight: Sight,
    time: Duration,
    max_bytes: usize,
    on_block: Option<OnBlock>,
    fail_open: bool,
    time_limit: Option<Duration>,
    released: Arc<Released>,
}

/// Counts for all streams of a window.
#[derive(Debug, Default)]
struct Released {
    by_time: AtomicU64,
    by_size: AtomicU64,
    bytes: AtomicU64,
}

/// How often text left before it was decided, since a bound ran out. See [`TextWindow::early_releases`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EarlyReleases {
    /// Releases because [`time`](TextWindow::max_delay) ran out.
    pub by_time: u64,
    /// Releases because more than [`max_bytes`](TextWindow::max_held_bytes) were held.
    pub by_size: u64,
    /// The text that left in both, in bytes.
    pub bytes: u64,
}

type OnBlock = Arc<dyn Fn() -> Vec<Block> + Send + Sync>;

impl TextWindow {
    /// A window with a judge: a function `Fn(&TextSegment) -> Decision`, or any other [`Judge`].
    pub fn new(judge: impl Judge) -> Self {
        // A judge that scans says by itself what has to wait, and for as long as that is.
        let (overlap, time) = match judge.incremental() {
            Some(_) => (0, Duration::MAX),
            None => (64, Duration::from_millis(250)),
        };
        Self {
            setting: Setting {
                judge: Arc::new(judge),
                extract: Arc::new(extract::any),
                sight: Sight { overlap, size: 0 },
                time,
                max_bytes: 1 << 20,
                on_block: None,
                fail_open: false,
                time_limit: None,
                released: Arc::default(),
            },
        }
    }

    /// A window that asks a tower service. Its stream waits for each answer, other streams do not;
    /// [`judge_timeout`](Self::judge_timeout) bounds the wait, and [`min_batch`](Self::min_batch) makes for fewer calls.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use tower::{ServiceBuilder, service_fn};
    /// use tower_sse_proxy::{SseProxyLayer, intercept::window::{Decision, TextSegment, TextWindow}};
    ///
    /// let classify = service_fn(|passage: TextSegment| async move {
    ///     let bad = passage.text.contains("bomb"); // or ask a model
    ///     Ok::<_, Infallible>(if bad { Decision::Block } else { Decision::Pass })
    /// });
    /// let classify = ServiceBuilder::new().concurrency_limit(32).service(classify);
    /// let window = TextWindow::service(classify)
    ///     .min_batch(400)
    ///     .overlap(100)
    ///     .max_delay(Duration::from_secs(1))
    ///     .judge_timeout(Duration::from_secs(2));
    /// let layer = SseProxyLayer::default().intercept(window);
    /// ```
    pub fn service<S>(service: S) -> Self
    where
        S: Service<TextSegment, Response = Decision> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self::new(JudgeService::new(service))
    }

    /// How many bytes of a text have to be in sight beyond what leaves: the size of the largest thing to be recognised.
    /// 64 unless set, and 0 with patterns.
    ///
    /// With 0, text leaves as soon as the judge does not [hold](Decision::Hold) it.
    ///
    /// The judge also sees twice as many bytes that have left before; 128 with 0.
    pub fn overlap(mut self, bytes: usize) -> Self {
        self.setting.sight.overlap = bytes;
        self
    }

    /// Judges only once so many bytes can leave, for a judge that is expensive or wants to see more. 0 unless set: as soon
    /// as anything can leave. A text that is complete is judged at once.
    pub fn min_batch(mut self, bytes: usize) -> Self {
        self.setting.sight.size = bytes;
        self
    }

    /// No event is held longer, by this window, than this and the time that the judge takes. 250 ms unless set, and without
    /// a bound with patterns.
    ///
    /// What is to be recognised is seen whole only if all of it comes within this time: nineteen letters that come one every
    /// 40 ms need 760 ms. What had to leave before its end came is not taken back, only the rest of it is masked.
    pub fn max_delay(mut self, time: Duration) -> Self {
        self.setting.time = time;
        self
    }

    /// No more bytes of events than these are held; more are judged and leave at once. 1 MiB unless set.
    ///
    /// With patterns, only the oldest events leave then, as many as have to. Of a match that has begun in them, as much as
    /// is a match by itself is masked or blocked, and the rest of it is masked when it comes; the text before that leaves,
    /// is [counted](Self::early_releases), and a warning is logged. A match that is larger than this, or whose channel is
    /// interleaved with more than this of other text, is therefore not seen whole. Patterns that match texts of a bounded
    /// size stay far below: a text of 320 bytes with one letter an event is about 100 kB.
    pub fn max_held_bytes(mut self, bytes: usize) -> Self {
        self.setting.max_bytes = bytes;
        self
    }

    /// How long a judge that is a service may take; longer is a failure. As long as it likes unless set.
    pub fn judge_timeout(mut self, limit: Duration) -> Self {
        self.setting.time_limit = Some(limit);
        self
    }

    /// Lets events leave unjudged, in order, when a judge fails or takes too long, or an event cannot be read in one way
    /// only. Unless set, the stream is then cut.
    ///
    /// (This and [`judge_timeout`](Self::judge_timeout) are the window's own: the adapters of
    /// [`MakeInterceptorExt`](super::MakeInterceptorExt) know nothing of what is held.)
    pub fn fail_open(mut self) -> Self {
        self.setting.fail_open = true;
        self
    }

    /// How often, in all streams so far, text left before it was decided, since [`max_delay`](Self::max_delay) or
    /// [`max_held_bytes`](Self::max_held_bytes) ran out. Clones of a window count together, so keep one to read this.
    ///
    /// The first such release of each stream at which a match may have begun is logged as a warning, others at the
    /// level `debug`; only sizes are logged.
    pub fn early_releases(&self) -> EarlyReleases {
        let released = &self.setting.released;
        EarlyReleases {
            by_time: released.by_time.load(Ordering::Relaxed),
            by_size: released.by_size.load(Ordering::Relaxed),
            bytes: released.bytes.load(Ordering::Relaxed),
        }
    }

    /// Where the texts stand. [`extract::any`] unless set.
    pub fn extract(mut self, extract: impl TextExtractor) -> Self {
        self.setting.extract = Arc::new(extract);
        self
    }

    /// What is sent in place of a text that is [blocked](Decision::Block), before the stream ends: the way in which the
    /// API says so. Unless set, the stream is cut, visibly. In both cases, nothing that was held leaves.
    ///
    /// The events go through the interceptors behind this one. One that has noted what the client has seen, as the guardrail
    /// among the examples does, can give them the ids and numbers that go on with that.
    ///
    /// ```
    /// # use tower_sse_proxy::{Event, intercept::window::{Decision, TextSegment, TextWindow}};
    /// # let judge = |_: &TextSegment| Decision::Pass;
    /// let window = TextWindow::new(judge).on_block(|| {
    ///     let refusal = r#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}"#;
    ///     vec![Event::new(refusal), Event::new("[DONE]")]
    /// });
    /// ```
    pub fn on_block<F, T>(mut self, events: F) -> Self
    where
        F: Fn() -> Vec<T> + Send + Sync + 'static,
        T: Into<Block>,
    {
        self.setting.on_block = Some(Arc::new(move || {
            events().into_iter().map(Into::into).collect()
        }));
        self
    }
}

impl fmt::Debug for TextWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("overlap", &self.setting.sight.overlap)
            .field("size", &self.setting.sight.size)
            .field("time", &self.setting.time)
            .field("max_bytes", &self.setting.max_bytes)
            .finish_non_exhaustive()
    }
}

impl MakeInterceptor for TextWindow {
    fn open(&self, _head: &StreamHead<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(OpenWindow {
            held: Held::new(self.setting.judge.incremental()),
            setting: self.setting.clone(),
            asked: None,
            blocked: None,
            has_warned: false,
        }))
    }
}

/// A window on one stream.
struct OpenWindow {
    setting: Setting,
    held: Held,
    /// What a judge that takes its time has been asked about.
    asked: Option<Asked>,
    /// Since when the stream is to be cut: what came before the match leaves first.
    blocked: Option<Instant>,
    has_warned: bool,
}

struct Asked {
    /// When the oldest of it came.
    since: Option<Instant>,
    /// What is left of it, once it is judged.
    rest: oneshot::Receiver<Rest>,
    due: Due,
}

impl OpenWindow {
    /// Judges and lets go what may leave.
    fn release(&mut self, due: Due) -> Verdict {
        if self.blocked.is_some() {
            return Verdict::fail(BLOCKED);
        }
        self.take_back();
        let due = match due {
            Due::Decided | Due::Since(_) if self.held.bytes() > self.setting.max_bytes => {
                Due::Above(self.setting.max_bytes)
            }
            due => due,
        };
        if self.held.is_scanning() {
            return self.release_scanned(due);
        }
        let since = self.held.since();
        let Some(batch) = self.held.take(self.setting.sight, due) else {
            return Verdict::Hold;
        };
        let questions = batch.questions();
        let rulings: Vec<_> = questions
            .passages()
            .map(|passage| self.setting.judge.judge(passage))
            .collect();
        let close = Close {
            fail_open: self.setting.fail_open,
            on_block: self.setting.on_block.clone(),
        };
        match decided(rulings) {
            Ok(answers) => {
                let judgements = questions.judgements(&answers);
                let (verdict, rest) = close.carry_out(batch, Ok(judgements));
                if matches!(verdict, Verdict::End(_) | Verdict::Defer(_)) {
                    // The last word is said, or the window has failed: nothing of what is left may leave.
                    self.held.clear();
                } else {
                    self.settle(rest, due);
                }
                verdict
            }
            Err(rulings) => {
                let limit = self.setting.time_limit;
                let (settled, rest) = oneshot::channel();
                self.asked = Some(Asked { since, rest, due });
                Verdict::Defer(Box::pin(async move {
                    let answers = all_judgements(rulings, limit).await;
                    let judgements = answers.map(|answers| questions.judgements(&answers));
                    let (verdict, rest) = close.carry_out(batch, judgements);
                    // Without the window, there is nothing left to hold.
                    let _ = settled.send(rest);
                    Ok(verdict)
                }))
            }
        }
    }

    /// Holds again what a judge that took its time has held.
    fn take_back(&mut self) {
        if let Some(mut asked) = self.asked.take()
            && let Ok(rest) = asked.rest.try_recv()
        {
            self.settle(rest, asked.due);
        }
    }

    fn settle(&mut self, rest: Rest, due: Due) {
        self.count(rest.early, due);
        self.held.settle(rest, self.setting.sight);
    }

    /// Lets go what scans have decided.
    fn release_scanned(&mut self, due: Due) -> Verdict {
        let mut scanned = self.held.take_scanned(self.setting.sight, due);
        self.count(scanned.early, due);
        if !scanned.blocked {
            return if scanned.blocks.is_empty() {
                Verdict::Hold
            } else {
                Verdict::Release(scanned.blocks)
            };
        }
        self.held.clear();
        let is_over = matches!(due, Due::End { .. });
        match &self.setting.on_block {
            Some(on_block) => {
                scanned.blocks.extend(on_block());
                Verdict::End(scanned.blocks)
            }
            // A verdict cannot both let go and fail. At the end of the stream no other follows.
            None if scanned.blocks.is_empty() || is_over => Verdict::fail(BLOCKED),
            None => {
                self.blocked = Some(Instant::now());
                Verdict::Release(scanned.blocks)
            }
        }
    }

    /// Counts and logs what left before it was decided.
    fn count(&mut self, early: Early, due: Due) {
        if early.bytes == 0 {
            return;
        }
        let released = &self.setting.released;
        let (count, bound) = match due {
            Due::Above(_) => (&released.by_size, "size"),
            _ => (&released.by_time, "time"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let bytes = early.bytes as u64;
        released.bytes.fetch_add(bytes, Ordering::Relaxed);
        if early.may_match && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                bytes,
                bound,
                "text in which a match may begin was released: a bound ran out"
            );
        } else {
            tracing::debug!(
                bytes,
                bound,
                "text was released before it was decided: a bound ran out"
            );
        }
    }

    /// An event that cannot be judged has come.
    fn fail(&mut self, event: Event, error: impl Into<BoxError>) -> Verdict {
        if self.setting.fail_open {
            self.held.push_block(event.into(), Instant::now());
            return self.release(Due::Decided);
        }
        self.held.clear();
        Verdict::fail(error)
    }
}

const BLOCKED: &str = "a judge blocked the stream";

impl Interceptor for OpenWindow {
    fn event(&mut self, event: Event) -> Verdict {
        self.take_back();
        match self
            .held
            .push(event, &*self.setting.extract, Instant::now())
        {
            Ok(()) => self.release(Due::Decided),
            Err((event, error)) => self.fail(event, error),
        }
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.take_back();
        self.held.push_block(block, Instant::now());
        self.release(Due::Decided)
    }

    fn deadline(&self) -> Option<Instant> {
        if self.blocked.is_some() {
            return self.blocked;
        }
        // What is left of what a judge was asked about is not known here: if it has left, the call does nothing.
        let asked = self.asked.as_ref().and_then(|asked| asked.since);
        let since = asked.or_else(|| self.held.since())?;
        // A time that no clock can tell never comes.
        since.checked_add(self.setting.time)
    }

    fn timeout(&mut self, now: Instant) -> Verdict {
        let until = now.checked_sub(self.setting.time);
        self.release(until.map_or(Due::Decided, Due::Since))
    }

    fn end(&mut self, end: StreamEnd<'_>) -> Verdict {
        let complete = match end {
            StreamEnd::ClientGone => return Verdict::Drop,
            // It may be this window that failed: what it could not judge does not leave.
            StreamEnd::Failed(error) if error.kind().is_of_an_interceptor() => {
                self.asked = None;
                self.held.clear();
                return Verdict::Drop;
            }
            StreamEnd::Failed(_) => false,
            StreamEnd::Complete | StreamEnd::Truncated => true,
        };
        self.release(Due::End { complete })
    }
}

/// The judgements, if all are known.
fn decided(rulings: Vec<Ruling>) -> Result<Vec<Decision>, Vec<Ruling>> {
    if rulings
        .iter()
        .any(|ruling| matches!(ruling, Ruling::Later(_)))
    {
        return Err(rulings);
    }
    let judgements = rulings.into_iter().filter_map(|ruling| match ruling {
        Ruling::Now(judgement) => Some(judgement),
        Ruling::Later(_) => None,
    });
    Ok(judgements.collect())
}

/// Waits for all judgements, side by side.
async fn all_judgements(
    rulings: Vec<Ruling>,
    limit: Option<Duration>,
) -> Result<Vec<Decision>, BoxError> {
    let judgements = try_join_all(rulings.into_iter().map(|ruling| async move {
        match ruling {
            Ruling::Now(judgement) => Ok(judgement),
            Ruling::Later(judgement) => judgement.await,
        }
    }));
    match limit {
        Some(limit) => tokio::time::timeout(limit, judgements)
            .await
            .map_err(|_| Error::new(ErrorKind::InterceptorTimedOut))?,
        None => judgements.await,
    }
}

/// How a batch is dealt with that does not simply pass.
struct Close {
    fail_open: bool,
    on_block: Option<OnBlock>,
}

impl Close {
    fn carry_out(
        &self,
        batch: Batch,
        judgements: Result<Vec<Decision>, BoxError>,
    ) -> (Verdict, Rest) {
        let error = match judgements.map(|judgements| batch.check(&judgements).map(|()| judgements))
        {
            Ok(Ok(judgements)) => {
                let Settled { blocks, rest } = batch.settle(judgements);
                let verdict = match (blocks, &self.on_block) {
                    (Some(blocks), _) => Verdict::Release(blocks),
                    (None, Some(on_block)) => Verdict::End(on_block()),
                    (None, None) => Verdict::fail(BLOCKED),
                };
                return (verdict, rest);
            }
            Ok(Err(invalid)) => invalid.into(),
            Err(error) => error,
        };
        if self.fail_open {
            let Settled { blocks, rest } = batch.let_all_pass();
            return (Verdict::Release(blocks.unwrap_or_default()), rest);
        }
        (Verdict::fail(error), Rest::default())
    }
}
