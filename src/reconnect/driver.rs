//! The driver of a reconnect: waits, sends the request again, and checks the response.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use http_body::Body;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tower::BoxError;

use crate::reconnect::{
    Attempt, Reconnect,
    config::{AttemptFuture, Resend, RetryParts},
};
use crate::{
    headers::{
        event_stream_head::LAST_EVENT_ID, incremental::set_incremental, stored::leave_buffer,
    },
    observe::LiveStream,
    timer::Timer,
    upstream::{
        ContentCheck, Continuation, UpstreamEnd, UpstreamProgress,
        body::{DecodedBody, RawBody},
    },
};

/// A request that can be sent to the upstream again.
pub(crate) struct RetryRequest<R> {
    head: request::Parts,
    config: Reconnect,
    resend: SyncWrapper<Resend<R>>,
}

impl<R> RetryRequest<R> {
    pub(crate) fn new((head, config, resend): RetryParts<R>) -> Self {
        Self {
            head,
            config,
            resend: SyncWrapper::new(resend),
        }
    }

    /// Whether the method of the request is `GET`.
    pub(crate) fn is_get(&self) -> bool {
        self.head.method == Method::GET
    }
}

impl<B> RetryRequest<Response<B>> {
    /// Continues the stream of the request when its upstream connection breaks. Reports attempts to the observers of `live`.
    pub(crate) fn into_continuation<F>(
        self,
        progress: Arc<UpstreamProgress>,
        content_check: ContentCheck,
        live: Option<Arc<LiveStream>>,
        fallback: Option<F>,
    ) -> Reconnecting<B, F> {
        Reconnecting::new(self, progress, content_check, live, fallback)
    }
}

/// Continues a stream by sending its request again after the upstream connection broke.
///
/// When it stops reconnecting, the fallback `F` provides the next response, if there is one.
pub(crate) struct Reconnecting<B, F> {
    retry: RetryRequest<Response<B>>,
    progress: Arc<UpstreamProgress>,
    content_check: ContentCheck,
    state: State<B>,
    timer: Timer,
    /// The end of the last response, until the next one begins.
    last_end: Option<UpstreamEnd>,
    /// Failures in a row: responses without a new event, and failed attempts.
    failures: u32,
    /// Attempts since the stream began.
    attempts: u32,
    fallback: Option<F>,
    /// `None` without observers.
    live: Option<Arc<LiveStream>>,
}

enum State<B> {
    /// The stream reads a response.
    Reading,
    /// The next attempt starts at this time.
    BackingOff(Instant),
    /// The request was sent.
    Requesting(AttemptFuture<Response<B>>),
    /// There is no further attempt: the fallback provides the next response.
    HandedOver,
}

impl<B, F> Reconnecting<B, F> {
    fn new(
        mut retry: RetryRequest<Response<B>>,
        progress: Arc<UpstreamProgress>,
        content_check: ContentCheck,
        live: Option<Arc<LiveStream>>,
        fallback: Option<F>,
    ) -> Self {
        // The head lives as long as the stream, and its fields are slices of the server's read buffer.
        leave_buffer(&mut retry.head);
        Self {
            retry,
            progress,
            content_check,
            state: State::Reading,
            timer: Timer::default(),
            last_end: None,
            failures: 0,
            attempts: 0,
            fallback,
            live,
        }
    }

    fn report(&self, succeeded: Option<bool>) {
        if let Some(live) = &self.live {
            live.reconnecting(succeeded);
        }
    }

    /// Schedules the next attempt, after at least `min_delay`. Returns `false` if there is none.
    fn schedule_attempt(&mut self, min_delay: Duration) -> bool {
        let backoff = self.retry.config.backoff;
        if !backoff.has_another(self.attempts) {
            tracing::warn!(
                attempts = self.attempts,
                "stopped reconnecting to the upstream: the stream has no attempts left"
            );
            return false;
        }
        let delay = backoff.delay(self.failures, self.progress.retry(), fastrand::f64());
        let at = delay.and_then(|delay| Instant::now().checked_add(delay.max(min_delay)));
        match at {
            Some(at) => self.state = State::BackingOff(at),
            None => tracing::warn!(
                failures = self.failures,
                "stopped reconnecting to the upstream: too many failures in a row"
            ),
        }
        at.is_some()
    }

    /// The head of the next attempt. `None` if the progress of the stream has no id to resume after, or none that a header can
    /// hold.
    fn next_request(&self) -> Option<request::Parts> {
        let last_id = self.progress.last_id()?;
        let last_id = HeaderValue::from_bytes(last_id.as_bytes()).ok()?;
        let mut head = self.retry.head.clone();
        head.headers.insert(LAST_EVENT_ID, last_id);
        set_incremental(&mut head.headers);
        head.extensions.insert(Attempt(self.failures + 1));
        Some(head)
    }
}

impl<B, F> Reconnecting<B, F>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    F: Continuation<B>,
{
    /// Stops reconnecting. Returns the end of the stream if there is no fallback.
    fn hand_over(&mut self) -> Result<(), UpstreamEnd> {
        self.state = State::HandedOver;
        let end = self.last_end.take().unwrap_or(UpstreamEnd::Clean(None));
        match &mut self.fallback {
            Some(fallback) => fallback.handle_end(end),
            None => Err(end),
        }
    }

    /// Handles the result of an attempt. Returns the body that continues the stream, or the end of the stream. `None` if another
    /// attempt or the fallback follows.
    fn handle_result(
        &mut self,
        result: Result<Response<B>, BoxError>,
    ) -> Option<Result<DecodedBody<B>, UpstreamEnd>> {
        let attempt = self.failures + 1;
        let mut min_delay = Duration::ZERO;
        let mut may_retry = true;
        match result {
            Ok(response) => {
                let (head, body) = response.into_parts();
                if head.status == StatusCode::OK
                    && let Some(rules) = (self.content_check)(&head)
                {
                    self.state = State::Reading;
                    self.report(Some(true));
                    self.last_end = None;
                    self.progress.begin_continuation();
                    let body = RawBody::new(body, rules.read_ahead);
                    return Some(Ok(DecodedBody::new(&rules.coding, body)));
                }
                if head.status == StatusCode::NO_CONTENT {
                    // The upstream has no more events (WHATWG HTML 9.2.3).
                    self.state = State::HandedOver;
                    self.progress.complete();
                    return Some(Err(UpstreamEnd::Clean(None)));
                }
                let cause = match head.status {
                    StatusCode::OK => "not an event stream that can continue the stream",
                    _ => "status is not 200",
                };
                let status = head.status.as_u16();
                tracing::warn!(attempt, status, cause, "reconnecting failed");
                may_retry = self.retry.config.counts_as_failure(&head);
                min_delay = retry_after(&head.headers).unwrap_or_default();
            }
            Err(error) => {
                let cause = root_cause(&*error);
                tracing::warn!(attempt, cause, "reconnecting failed");
            }
        }
        self.report(Some(false));
        self.failures += 1;
        if !may_retry {
            tracing::warn!(
                "stopped reconnecting to the upstream: the last response is not a failure that allows another attempt"
            );
        } else if self.schedule_attempt(min_delay) {
            return None;
        }
        self.hand_over().err().map(Err)
    }
}

impl<B, F> Continuation<B> for Reconnecting<B, F>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    F: Continuation<B>,
{
    fn handle_end(&mut self, end: UpstreamEnd) -> Result<(), UpstreamEnd> {
        let is_broken = matches!(end, UpstreamEnd::Broken(_));
        if let UpstreamEnd::Broken(error) = &end
            && !self.progress.is_complete()
        {
            let cause = root_cause(error);
            tracing::warn!(cause, "an event stream of the upstream broke");
        }
        if self.progress.has_new_events() {
            self.failures = 0;
        } else {
            self.failures += 1;
        }
        self.last_end = Some(end);
        if is_broken && self.progress.suspend() && self.schedule_attempt(Duration::ZERO) {
            return Ok(());
        }
        self.hand_over()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>> {
        loop {
            match &mut self.state {
                State::Reading => return Poll::Ready(Err(UpstreamEnd::Clean(None))),
                State::BackingOff(at) => {
                    ready!(self.timer.poll(cx, *at));
                    if let Some(request) = self.next_request() {
                        self.attempts += 1;
                        self.report(None);
                        self.state = State::Requesting(self.retry.resend.get_mut()(request));
                    } else if let Err(end) = self.hand_over() {
                        return Poll::Ready(Err(end));
                    }
                }
                State::Requesting(response) => {
                    let result = ready!(response.as_mut().poll(cx));
                    if let Some(next) = self.handle_result(result) {
                        return Poll::Ready(next);
                    }
                }
                State::HandedOver => {
                    let next = match &mut self.fallback {
                        Some(fallback) => ready!(fallback.poll_next(cx)),
                        None => Err(UpstreamEnd::Clean(None)),
                    };
                    if next.is_ok() {
                        self.state = State::Reading;
                        self.failures = 0;
                    }
                    return Poll::Ready(next);
                }
            }
        }
    }

    fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Requesting(_))
    }

    fn stop_waiting(&mut self) -> Option<UpstreamEnd> {
        self.progress.stop_waiting();
        match self.state {
            State::HandedOver => self.fallback.as_mut()?.stop_waiting(),
            _ => self.last_end.take(),
        }
    }
}

/// The text of the innermost source of an error, as one line of at most [`MAX_CAUSE_CHARS`]. It names the cause, while the errors
/// around it may contain addresses and requests.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let text = root.to_string();
    let line = text
        .chars()
        .take(MAX_CAUSE_CHARS)
        .filter(|char| !char.is_control());
    line.collect()
}

/// The number of characters of a cause that are logged.
const MAX_CAUSE_CHARS: usize = 200;

/// The delay in a `Retry-After` header in seconds (RFC 9110 section 10.2.3), up to [`MAX_RETRY_AFTER_SECONDS`]. `None` for a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: u32 = value.trim().parse().ok()?;
    Some(Duration::from_secs(
        seconds.min(MAX_RETRY_AFTER_SECONDS).into(),
    ))
}

/// Longer delays are cut to this, in seconds, because clients do not wait for so long.
const MAX_RETRY_AFTER_SECONDS: u32 = 120;

impl<R> fmt::Debug for RetryRequest<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryRequest").finish_non_exhaustive()
    }
}
