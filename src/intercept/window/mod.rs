//! A window on text that is split over events.
//!
//! A model's answer arrives a few letters an event, so what must not pass is never in one event alone. A [`Window`] joins
//! the letters of each text, shows them to a [`Judge`] before they leave, and carries out its judgement in the events that
//! brought them: what was not changed leaves as it came.
//!
//! ```
//! use std::time::Duration;
//! use tower_sse_proxy::{SseProxyLayer, intercept::window::{Judgement, Passage, Window}};
//!
//! let names = Window::new(|passage: &Passage| {
//!     let found = passage.text.match_indices("Alice");
//!     Judgement::mask(found.map(|(at, name)| at..at + name.len()), "[name]")
//! })
//! .overlap("Alice".len())
//! .time(Duration::from_millis(200));
//! let layer = SseProxyLayer::default().intercept(names);
//! ```
//!
//! # What is seen, and when it leaves
//!
//! * A text is a **channel**: one choice, one content block, the arguments of one tool call. What belongs to a channel is
//!   told by an [`Extract`]; [`extract`] has those of OpenAI's chat completions and Responses, Anthropic's messages,
//!   Gemini, and plain data, and by default they are told apart by themselves. Every other string of an event is judged
//!   by itself.
//! * An event waits until [`overlap`](Window::overlap) more bytes of its text have come, so that anything of at most that
//!   size is seen whole before its first letter leaves. It never waits longer than [`time`](Window::time); what then
//!   still lacks its end leaves, and the judge sees it again, as [sent](Passage::sent), with what comes.
//! * Order is kept, over all channels: an event that waits holds up those behind it.
//! * Every string value is judged as readers read it: escapes undone, unpaired surrogates included, at any depth and under
//!   any name. A string may hold JSON itself, such as the arguments of a tool call: a text with escapes is judged a second
//!   time with those undone. Data that is not JSON is judged as it is, and with the escapes of one and of two layers undone.
//!   A judge that is asked twice about a text has to let both readings pass.
//! * What cannot be read in one way only (an object that has a name twice, JSON nested more than 32 deep, an index that may
//!   or may not be the same as a number) is a failure of the interceptor: the stream is cut.
//! * A text that continues after its end is the same text. The last 1024 that ended are remembered at least.
//! * When a text is masked, members of its event that tell it again token by token (`logprobs`) are emptied.
//! * Names of object members, comments, and the `event` and `id` fields are not text, and are not judged.

mod channel;
mod edit;
pub mod extract;
mod find;
mod held;
mod judge;
mod questions;
mod reading;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tokio::time::Instant;
use tower::{BoxError, Service};

pub use extract::{Extract, Texts};
pub use judge::{Judge, JudgeService, Judgement, Mask, Passage, Ruling};

use super::{End, Head, Intercept, Interceptor, Verdict};
use crate::{
    codec::{Block, Event},
    error::{Error, ErrorKind},
};
use held::{Batch, Held, Sight};

/// Holds text back until it has been judged. See the [module](self).
#[derive(Clone)]
pub struct Window {
    setting: Setting,
}

#[derive(Clone)]
struct Setting {
    judge: Arc<dyn Judge>,
    extract: Arc<dyn Extract>,
    sight: Sight,
    time: Duration,
    max_bytes: usize,
    on_block: Option<OnBlock>,
    fail_open: bool,
    time_limit: Option<Duration>,
}

type OnBlock = Arc<dyn Fn() -> Vec<Block> + Send + Sync>;

impl Window {
    /// A window with a judge: a function `Fn(&Passage) -> Judgement`, or any other [`Judge`].
    pub fn new(judge: impl Judge) -> Self {
        Self {
            setting: Setting {
                judge: Arc::new(judge),
                extract: Arc::new(extract::any),
                sight: Sight {
                    overlap: 64,
                    size: 0,
                },
                time: Duration::from_millis(250),
                max_bytes: 1 << 20,
                on_block: None,
                fail_open: false,
                time_limit: None,
            },
        }
    }

    /// A window that asks a tower service. Its stream waits for each answer, other streams do not;
    /// [`time_limit`](Self::time_limit) bounds the wait, and [`size`](Self::size) makes for fewer calls.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use tower::{ServiceBuilder, service_fn};
    /// use tower_sse_proxy::{SseProxyLayer, intercept::window::{Judgement, Passage, Window}};
    ///
    /// let classify = service_fn(|passage: Passage| async move {
    ///     let bad = passage.text.contains("bomb"); // or ask a model
    ///     Ok::<_, Infallible>(if bad { Judgement::Block } else { Judgement::Pass })
    /// });
    /// let classify = ServiceBuilder::new().concurrency_limit(32).service(classify);
    /// let window = Window::service(classify)
    ///     .size(400)
    ///     .overlap(100)
    ///     .time(Duration::from_secs(1))
    ///     .time_limit(Duration::from_secs(2));
    /// let layer = SseProxyLayer::default().intercept(window);
    /// ```
    pub fn service<S>(service: S) -> Self
    where
        S: Service<Passage, Response = Judgement> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self::new(JudgeService::new(service))
    }

    /// How many bytes of a text have to be in sight beyond what leaves: the size of the largest thing to be recognised.
    /// 64 unless set.
    ///
    /// The judge also sees twice as many bytes that have left before.
    pub fn overlap(mut self, bytes: usize) -> Self {
        self.setting.sight.overlap = bytes;
        self
    }

    /// Judges only once so many bytes can leave, for a judge that is expensive or wants to see more. 0 unless set: as soon
    /// as anything can leave. A text that is complete is judged at once.
    pub fn size(mut self, bytes: usize) -> Self {
        self.setting.sight.size = bytes;
        self
    }

    /// No event is held longer, by this window, than this and the time that the judge takes. 250 ms unless set.
    ///
    /// What is to be recognised is seen whole only if all of it comes within this time: nineteen letters that come one every
    /// 40 ms need 760 ms. What had to leave before its end came is not taken back, only the rest of it is masked.
    pub fn time(mut self, time: Duration) -> Self {
        self.setting.time = time;
        self
    }

    /// No more bytes of events than these are held; more are judged and leave at once. 1 MiB unless set.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.setting.max_bytes = bytes;
        self
    }

    /// How long a judge that is a service may take; longer is a failure. As long as it likes unless set.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.setting.time_limit = Some(limit);
        self
    }

    /// Lets events leave unjudged, in order, when a judge fails or takes too long, or an event cannot be read in one way
    /// only. Unless set, the stream is then cut.
    ///
    /// (This and [`time_limit`](Self::time_limit) are the window's own: the adapters of
    /// [`InterceptExt`](super::InterceptExt) know nothing of what is held.)
    pub fn fail_open(mut self) -> Self {
        self.setting.fail_open = true;
        self
    }

    /// Where the texts stand. [`extract::any`] unless set.
    pub fn extract(mut self, extract: impl Extract) -> Self {
        self.setting.extract = Arc::new(extract);
        self
    }

    /// What is sent in place of a text that is [blocked](Judgement::Block), before the stream ends: the way in which the
    /// API says so. Unless set, the stream is cut, visibly. In both cases, nothing that was held leaves.
    ///
    /// The events go through the interceptors behind this one. One that has noted what the client has seen, as the guardrail
    /// among the examples does, can give them the ids and numbers that go on with that.
    ///
    /// ```
    /// # use tower_sse_proxy::{Event, intercept::window::{Judgement, Passage, Window}};
    /// # let judge = |_: &Passage| Judgement::Pass;
    /// let window = Window::new(judge).on_block(|| {
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

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("overlap", &self.setting.sight.overlap)
            .field("size", &self.setting.sight.size)
            .field("time", &self.setting.time)
            .field("max_bytes", &self.setting.max_bytes)
            .finish_non_exhaustive()
    }
}

impl Intercept for Window {
    fn open(&self, _head: &Head<'_>) -> Option<Box<dyn Interceptor>> {
        Some(Box::new(OpenWindow {
            setting: self.setting.clone(),
            held: Held::default(),
        }))
    }
}

/// A window on one stream.
struct OpenWindow {
    setting: Setting,
    held: Held,
}

impl OpenWindow {
    /// Judges and lets go what may leave.
    fn release(&mut self, until: Option<Instant>, all: bool) -> Verdict {
        let all = all || self.held.bytes() > self.setting.max_bytes;
        let Some(batch) = self.held.take(self.setting.sight, until, all) else {
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
                let verdict = close.carry_out(batch, Ok(judgements));
                if matches!(verdict, Verdict::End(_) | Verdict::Defer(_)) {
                    // The last word is said, or the window has failed: nothing of what is left may leave.
                    self.held.clear();
                }
                verdict
            }
            Err(rulings) => {
                let limit = self.setting.time_limit;
                Verdict::Defer(Box::pin(async move {
                    let answers = all_judgements(rulings, limit).await;
                    let judgements = answers.map(|answers| questions.judgements(&answers));
                    Ok(close.carry_out(batch, judgements))
                }))
            }
        }
    }

    /// An event that cannot be judged has come.
    fn fail(&mut self, event: Event, error: impl Into<BoxError>) -> Verdict {
        if self.setting.fail_open {
            self.held.push_block(event.into(), Instant::now());
            return self.release(None, false);
        }
        self.held.clear();
        Verdict::fail(error)
    }
}

impl Interceptor for OpenWindow {
    fn event(&mut self, event: Event) -> Verdict {
        match self
            .held
            .push(event, &*self.setting.extract, Instant::now())
        {
            Ok(()) => self.release(None, false),
            Err((event, error)) => self.fail(event, error),
        }
    }

    fn block(&mut self, block: Block) -> Verdict {
        self.held.push_block(block, Instant::now());
        self.release(None, false)
    }

    fn deadline(&self) -> Option<Instant> {
        // A time that no clock can tell never comes.
        self.held.since()?.checked_add(self.setting.time)
    }

    fn timeout(&mut self, now: Instant) -> Verdict {
        self.release(now.checked_sub(self.setting.time), false)
    }

    fn end(&mut self, end: End<'_>) -> Verdict {
        match end {
            End::ClientGone => return Verdict::Drop,
            // It may be this window that failed: what it could not judge does not leave.
            End::Failed(error) if error.kind().is_of_an_interceptor() => self.held.clear(),
            _ => {}
        }
        self.release(None, true)
    }
}

/// The judgements, if all are known.
fn decided(rulings: Vec<Ruling>) -> Result<Vec<Judgement>, Vec<Ruling>> {
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
) -> Result<Vec<Judgement>, BoxError> {
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
    fn carry_out(&self, batch: Batch, judgements: Result<Vec<Judgement>, BoxError>) -> Verdict {
        let error = match judgements.map(|judgements| batch.check(&judgements).map(|()| judgements))
        {
            Ok(Ok(judgements)) => {
                return match (batch.settle(judgements), &self.on_block) {
                    (Some(blocks), _) => Verdict::Release(blocks),
                    (None, Some(on_block)) => Verdict::End(on_block()),
                    (None, None) => Verdict::fail("a judge blocked the stream"),
                };
            }
            Ok(Err(invalid)) => invalid.into(),
            Err(error) => error,
        };
        if self.fail_open {
            return Verdict::Release(batch.into_blocks());
        }
        Verdict::fail(error)
    }
}
