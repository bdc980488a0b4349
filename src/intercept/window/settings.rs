//! The text window and its settings.

use std::{fmt, sync::Arc, time::Duration};

use tower::{BoxError, Service};

use super::{
    decision::{Decision, TextSegment},
    early::{EarlyReleases, ReleaseCounters},
    extract,
    held::HoldRules,
    judge::{Judge, JudgeService},
    texts::TextExtractor,
};
use crate::codec::Block;

/// An interceptor that holds text until a [`Judge`] has decided about it. See the [module](super).
#[derive(Clone)]
pub struct TextWindow {
    pub(super) settings: Settings,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) judge: Arc<dyn Judge>,
    pub(super) extractor: Arc<dyn TextExtractor>,
    pub(super) rules: HoldRules,
    pub(super) max_delay: Duration,
    pub(super) max_held_bytes: usize,
    pub(super) on_block: Option<OnBlock>,
    pub(super) fail_open: bool,
    pub(super) judge_timeout: Option<Duration>,
    pub(super) counters: Arc<ReleaseCounters>,
}

/// Makes the events that replace blocked text.
pub(super) type OnBlock = Arc<dyn Fn() -> Vec<Block> + Send + Sync>;

impl TextWindow {
    /// Makes a window with a judge: a function `Fn(&TextSegment) -> Decision`, the judge that `patterns` makes, or another
    /// [`Judge`].
    pub fn new(judge: impl Judge) -> Self {
        // A judge that scans decides which text is held, and for how long.
        let (overlap, max_delay) = match judge.incremental() {
            Some(_) => (0, Duration::MAX),
            None => (64, Duration::from_millis(250)),
        };
        Self {
            settings: Settings {
                judge: Arc::new(judge),
                extractor: Arc::new(extract::any),
                rules: HoldRules {
                    overlap,
                    min_batch: 0,
                },
                max_delay,
                max_held_bytes: 1 << 20,
                on_block: None,
                fail_open: false,
                judge_timeout: None,
                counters: Arc::default(),
            },
        }
    }

    /// Makes a window that asks a tower service. The stream waits for each response; other streams do not.
    ///
    /// [`judge_timeout`](Self::judge_timeout) limits the wait, and [`min_batch`](Self::min_batch) reduces the number of calls.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use tower::{ServiceBuilder, service_fn};
    /// use tower_sse_proxy::{SseProxyLayer, intercept::window::{Decision, TextSegment, TextWindow}};
    ///
    /// let classify = service_fn(|segment: TextSegment| async move {
    ///     let bad = segment.text.contains("bomb"); // or ask a model
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

    /// Sets the number of bytes that must follow a text before the text is sent: the length of the longest match to recognize.
    /// Default: 64, and 0 with patterns.
    ///
    /// With 0, text is sent as soon as the judge does not [hold](Decision::Hold) it.
    ///
    /// The judge also sees sent text before the held text: twice this number of bytes, or 128 bytes if this is 0.
    pub fn overlap(mut self, bytes: usize) -> Self {
        self.settings.rules.overlap = bytes;
        self
    }

    /// Sets the number of bytes that must be ready to be sent before the window asks the judge. Default: 0, the window asks as soon as
    /// any text can be sent.
    ///
    /// Set it for a judge that is expensive or needs context. A complete text is judged at once.
    pub fn min_batch(mut self, bytes: usize) -> Self {
        self.settings.rules.min_batch = bytes;
        self
    }

    /// Limits the time that the window holds an event, without the time that the judge takes. Default: 250 ms, and no limit
    /// with patterns.
    ///
    /// The judge sees a match as a whole only if all of it arrives within this time: at one character each 40 ms, 19
    /// characters need 760 ms. If the beginning of a match was sent before, only the rest of the match is masked.
    pub fn max_delay(mut self, time: Duration) -> Self {
        self.settings.max_delay = time;
        self
    }

    /// Limits the bytes of events that the window holds for one stream. Above the limit, the window asks the judge and sends all held
    /// events. Default: 1 MiB.
    ///
    /// With patterns, the window sends only as many of the oldest events as necessary. If a match has begun in them and the part so far is
    /// itself a match, this part is masked or blocked, and the rest of the match is masked when it arrives. Other text in which a match may
    /// have begun is sent; the window [counts](Self::early_releases) it and logs a warning. The window therefore does not see a match as a
    /// whole if the match, together with the text of other channels between its parts, is larger than this limit. Patterns with matches of
    /// limited size stay far below: a match of 320 bytes with one character in each event takes about 100 kB.
    pub fn max_held_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_held_bytes = bytes;
        self
    }

    /// Limits the time that an asynchronous judge may take. A longer time is a failure of the interceptor.
    /// Default: no limit.
    pub fn judge_timeout(mut self, limit: Duration) -> Self {
        self.settings.judge_timeout = Some(limit);
        self
    }

    /// Sends events unchanged, in order, if the judge fails or exceeds its timeout, or if readers may interpret an event
    /// differently. Default: the stream is cut.
    ///
    /// Use this and [`judge_timeout`](Self::judge_timeout) instead of the adapters of
    /// [`MakeInterceptorExt`](crate::intercept::MakeInterceptorExt), which do not know the held events.
    pub fn fail_open(mut self) -> Self {
        self.settings.fail_open = true;
        self
    }

    /// Returns how often text was sent before it was decided, because [`max_delay`](Self::max_delay) or
    /// [`max_held_bytes`](Self::max_held_bytes) was reached. The counts are totals of all streams of this window and its clones.
    ///
    /// Keep a clone of the window to read them. The window logs the first such release of a stream in which a match may have
    /// begun as a warning, and others at the level `debug`. Log lines contain sizes, no text.
    pub fn early_releases(&self) -> EarlyReleases {
        self.settings.counters.read()
    }

    /// Sets the extractor that finds the texts in events. Default: [`extract::any`].
    pub fn extract(mut self, extractor: impl TextExtractor) -> Self {
        self.settings.extractor = Arc::new(extractor);
        self
    }

    /// Sets the events that the window sends in place of a [blocked](Decision::Block) text, before it ends the stream cleanly.
    /// Default: the stream is cut. In both cases the window drops all held events. In place of a JSON body, the client gets
    /// [`blocked_status`](crate::Policy::blocked_status) and none of these events.
    ///
    /// The events pass through the interceptors after this one, which can add ids and sequence numbers, as the guardrail
    /// example does.
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
        self.settings.on_block = Some(Arc::new(move || {
            events().into_iter().map(Into::into).collect()
        }));
        self
    }
}

impl fmt::Debug for TextWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextWindow")
            .field("overlap", &self.settings.rules.overlap)
            .field("min_batch", &self.settings.rules.min_batch)
            .field("max_delay", &self.settings.max_delay)
            .field("max_held_bytes", &self.settings.max_held_bytes)
            .finish_non_exhaustive()
    }
}
