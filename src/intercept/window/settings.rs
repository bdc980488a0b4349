//! The settings of a window.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tower::{BoxError, Service};

use super::{
    decision::{Decision, TextSegment},
    early::{EarlyReleases, Released},
    extract,
    held::Sight,
    judge::{Judge, JudgeService},
    texts::TextExtractor,
};
use crate::codec::Block;

/// Holds text back until it has been judged. See the [module](super).
#[derive(Clone)]
pub struct TextWindow {
    pub(super) setting: Setting,
}

#[derive(Clone)]
pub(super) struct Setting {
    pub(super) judge: Arc<dyn Judge>,
    pub(super) extract: Arc<dyn TextExtractor>,
    pub(super) sight: Sight,
    pub(super) time: Duration,
    pub(super) max_bytes: usize,
    pub(super) on_block: Option<OnBlock>,
    pub(super) fail_open: bool,
    pub(super) time_limit: Option<Duration>,
    pub(super) released: Arc<Released>,
}

pub(super) type OnBlock = Arc<dyn Fn() -> Vec<Block> + Send + Sync>;

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
    /// [`MakeInterceptorExt`](crate::intercept::MakeInterceptorExt) know nothing of what is held.)
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
