//! An upstream that is asked again: waiting, asking, and giving up.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request, response};
use http_body::Body;
use sync_wrapper::SyncWrapper;
use tokio::time::Instant;
use tower::BoxError;

use crate::reconnect::{
    Attempt, Reconnect,
    config::{Ask, Resend},
};
use crate::{
    headers::{content_encoding::ContentCoding, event_stream::LAST_EVENT_ID, stored::leave_buffer},
    timer::Timer,
    upstream::{Continuation, UpstreamEnd, UpstreamProgress, body::DecodedBody},
};

/// How a service is asked again.
pub(crate) struct RetryRequest<R> {
    request: request::Parts,
    rules: Reconnect,
    ask: SyncWrapper<Ask<R>>,
}

impl<R> RetryRequest<R> {
    pub(crate) fn new((request, rules, ask): Resend<R>) -> Self {
        Self {
            request,
            rules,
            ask: SyncWrapper::new(ask),
        }
    }

    /// Whether the service is asked again by `GET`.
    pub(crate) fn is_get(&self) -> bool {
        self.request.method == Method::GET
    }
}

/// Tells what coding a stream is in, if the answer is one that can be read.
pub(crate) type ContentCheck = Box<dyn Fn(&response::Parts) -> Option<ContentCoding> + Send>;

/// Other answers of an upstream, for which it is asked when one has broken off.
pub(crate) struct Reconnecting<B, P> {
    repeat: RetryRequest<Response<B>>,
    progress: Arc<UpstreamProgress>,
    readable: ContentCheck,
    state: State<B>,
    timer: Timer,
    /// How the answer before ended.
    over: Option<UpstreamEnd>,
    /// Attempts that came to nothing, in a row.
    failed: u32,
    /// Attempts over the life of the stream.
    made: u32,
    /// What follows if the upstream is asked no more.
    or_else: Option<P>,
}

enum State<B> {
    /// An answer is being read.
    Reading,
    Waiting(Instant),
    Asking(BoxFuture<'static, Result<Response<B>, BoxError>>),
    /// It is up to what follows.
    GivenUp,
}

impl<B, P> Reconnecting<B, P> {
    pub(crate) fn new(
        mut repeat: RetryRequest<Response<B>>,
        progress: Arc<UpstreamProgress>,
        readable: ContentCheck,
        or_else: Option<P>,
    ) -> Self {
        // It lasts as long as the stream.
        leave_buffer(&mut repeat.request);
        Self {
            repeat,
            progress,
            readable,
            state: State::Reading,
            timer: Timer::default(),
            over: None,
            failed: 0,
            made: 0,
            or_else,
        }
    }

    /// Waits before the next attempt. False if there is none.
    fn wait(&mut self, at_least: Duration) -> bool {
        let backoff = self.repeat.rules.backoff;
        if !backoff.has_another(self.made) {
            tracing::warn!(
                attempts = self.made,
                "stopped reconnecting to the upstream: the stream has no attempts left"
            );
            return false;
        }
        let wait = backoff.delay(self.failed, self.progress.retry(), fastrand::f64());
        let until = wait.and_then(|wait| Instant::now().checked_add(wait.max(at_least)));
        match until {
            Some(until) => self.state = State::Waiting(until),
            None => tracing::warn!(
                attempts = self.failed,
                "stopped reconnecting to the upstream: too many attempts in a row failed, or the last answer forbids another one"
            ),
        }
        until.is_some()
    }

    fn request(&self) -> Option<request::Parts> {
        let last_id = self.progress.last_id()?;
        let last_id = HeaderValue::from_bytes(last_id.as_bytes()).ok()?;
        let mut request = self.repeat.request.clone();
        request.headers.insert(LAST_EVENT_ID, last_id);
        request.extensions.insert(Attempt(self.failed + 1));
        Some(request)
    }
}

impl<B, P: Continuation<B>> Reconnecting<B, P> {
    /// The upstream is asked no more.
    fn hand_over(&mut self) -> Result<(), UpstreamEnd> {
        self.state = State::GivenUp;
        let over = self.over.take().unwrap_or(UpstreamEnd::Clean(None));
        match &mut self.or_else {
            Some(next) => next.handle_end(over),
            None => Err(over),
        }
    }
}

impl<B, P> Continuation<B> for Reconnecting<B, P>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    P: Continuation<B>,
{
    fn handle_end(&mut self, over: UpstreamEnd) -> Result<(), UpstreamEnd> {
        let broken = matches!(over, UpstreamEnd::Broken(_));
        if let UpstreamEnd::Broken(error) = &over
            && !self.progress.is_complete()
        {
            let cause = root_cause(error);
            tracing::warn!(cause, "an event stream of the upstream broke");
        }
        if self.progress.has_new_events() {
            self.failed = 0;
        } else {
            self.failed += 1;
        }
        self.over = Some(over);
        if broken && self.progress.suspend() && self.wait(Duration::ZERO) {
            return Ok(());
        }
        self.hand_over()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<DecodedBody<B>, UpstreamEnd>> {
        loop {
            match &mut self.state {
                State::Reading => return Poll::Ready(Err(UpstreamEnd::Clean(None))),
                State::Waiting(until) => {
                    ready!(self.timer.poll(cx, *until));
                    let Some(request) = self.request() else {
                        match self.hand_over() {
                            Ok(()) => continue,
                            Err(over) => return Poll::Ready(Err(over)),
                        }
                    };
                    self.made += 1;
                    self.state = State::Asking(self.repeat.ask.get_mut()(request));
                }
                State::Asking(answer) => {
                    let answer = ready!(answer.as_mut().poll(cx));
                    let mut at_least = Duration::ZERO;
                    let attempt = self.failed + 1;
                    match answer {
                        Ok(answer) => {
                            let (parts, body) = answer.into_parts();
                            if parts.status == StatusCode::OK
                                && let Some(coding) = (self.readable)(&parts)
                            {
                                self.state = State::Reading;
                                self.over = None;
                                self.progress.begin_continuation();
                                return Poll::Ready(Ok(DecodedBody::new(&coding, body)));
                            }
                            if parts.status == StatusCode::NO_CONTENT {
                                self.state = State::GivenUp;
                                self.progress.complete();
                                return Poll::Ready(Err(UpstreamEnd::Clean(None)));
                            }
                            let cause = match parts.status {
                                StatusCode::OK => "not an event stream that can be continued with",
                                _ => "not the status of a stream",
                            };
                            let status = parts.status.as_u16();
                            tracing::warn!(attempt, status, cause, "reconnecting failed");
                            if !self.repeat.rules.counts_as_failure(&parts) {
                                self.failed = u32::MAX - 1;
                            }
                            at_least = retry_after(&parts.headers).unwrap_or_default();
                        }
                        Err(error) => {
                            let cause = root_cause(&*error);
                            tracing::warn!(attempt, cause, "reconnecting failed");
                        }
                    }
                    self.failed += 1;
                    if !self.wait(at_least)
                        && let Err(over) = self.hand_over()
                    {
                        return Poll::Ready(Err(over));
                    }
                }
                State::GivenUp => {
                    return match &mut self.or_else {
                        Some(next) => match ready!(next.poll_next(cx)) {
                            Ok(answer) => {
                                self.state = State::Reading;
                                self.failed = 0;
                                Poll::Ready(Ok(answer))
                            }
                            Err(over) => Poll::Ready(Err(over)),
                        },
                        None => Poll::Ready(Err(UpstreamEnd::Clean(None))),
                    };
                }
            }
        }
    }

    fn stop_waiting(&mut self) -> Option<UpstreamEnd> {
        self.progress.stop_waiting();
        match self.state {
            State::GivenUp => self.or_else.as_mut()?.stop_waiting(),
            _ => self.over.take(),
        }
    }
}

/// The text of the innermost source: what happened, without the addresses and requests that errors around it may show. On one
/// line, and no longer than a line.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let text = root.to_string();
    let line = text.chars().take(CAUSE).filter(|char| !char.is_control());
    line.collect()
}

/// The characters of a cause that are logged.
const CAUSE: usize = 200;

/// When a server wants to be asked again, in seconds (RFC 9110 10.2.3). A date is not waited for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: u32 = value.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER).into()))
}

/// Nobody's client waits for longer, in seconds.
const LONGEST_RETRY_AFTER: u32 = 120;

impl<R> fmt::Debug for RetryRequest<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeat").finish_non_exhaustive()
    }
}
