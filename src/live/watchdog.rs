//! The watchdog of one stream: decides when a limit of its [settings](super::watchdog_settings) is exceeded. Without I/O: time is an
//! argument.

use std::time::Duration;

use tokio::time::Instant;

use super::watchdog_settings::Limits;
use crate::observe::WatchdogKind;

/// The minimum time between two checks of a stream that does not wait for the upstream, and would exceed a limit as soon as it does.
const BLOCKED_PAUSE: Duration = Duration::from_millis(500);

/// Measures the age of one stream, how long its upstream has been silent, and how long its client has taken nothing.
///
/// Only the time in which the layer waits for the upstream counts as silence of the upstream: time in which the client takes nothing, or
/// in which an interceptor works, is excused.
#[derive(Debug)]
pub(crate) struct StreamWatchdog {
    limits: Limits,
    head_at: Instant,
    /// The time of the last event with content.
    last_content: Option<Instant>,
    /// The time since which the layer has not waited for the upstream.
    blocked_since: Option<Instant>,
    /// The time since the last event with content in which the layer did not wait for the upstream.
    excused: Duration,
    /// The silence after which the layer asked the upstream to continue. `None` if it has not asked since the last event with content.
    reconnected_after: Option<Duration>,
    /// The time since which the client has not taken the data that is ready for it.
    unread_since: Option<Instant>,
    /// The time at which the stream expires.
    expires_at: Option<Instant>,
    /// The limits that have been exceeded since the last event with content. Each fires once.
    fired: Fired,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fired {
    content: bool,
    write: bool,
    age: bool,
}

impl StreamWatchdog {
    /// The watchdog of a stream whose head arrived at `head_at`, for a request that arrived at `arrived`.
    pub(crate) fn new(limits: Limits, arrived: Instant, head_at: Instant) -> Self {
        Self {
            expires_at: limits.expires_at(arrived),
            limits,
            head_at,
            last_content: None,
            blocked_since: None,
            excused: Duration::ZERO,
            reconnected_after: None,
            unread_since: None,
            fired: Fired::default(),
        }
    }

    /// Whether the watchdog has any limit.
    pub(crate) fn has_limits(&self) -> bool {
        self.limits.any() || self.expires_at.is_some()
    }

    /// Whether the watchdogs only observe.
    pub(crate) fn only_observes(&self) -> bool {
        self.limits.only_observes
    }

    /// Handles an event with content. Returns the gap since the previous one.
    pub(crate) fn handle_content(&mut self, now: Instant) -> Option<Duration> {
        self.settle_blocked(now);
        let gap = self
            .last_content
            .map(|last| (now - last).saturating_sub(self.excused));
        self.last_content = Some(now);
        self.excused = Duration::ZERO;
        self.reconnected_after = None;
        self.fired.content = false;
        gap
    }

    /// Whether the layer may ask the upstream to continue, because this limit is exceeded. It may ask once in each silence.
    pub(crate) fn may_reconnect(&self, kind: WatchdogKind) -> bool {
        let is_silence = matches!(kind, WatchdogKind::First | WatchdogKind::Gap);
        let limits = &self.limits;
        is_silence && limits.reconnects && !limits.only_observes && self.reconnected_after.is_none()
    }

    /// The layer is about to ask the upstream to continue. The limit begins anew, and the time until the layer sends the request is excused.
    pub(crate) fn handle_reconnect(&mut self, now: Instant) {
        self.settle_blocked(now);
        let silent = now - self.last_content.unwrap_or(self.head_at);
        self.reconnected_after = Some(silent.saturating_sub(self.excused));
        self.blocked_since = Some(now);
        self.fired.content = false;
    }

    /// Handles the end of a poll: whether the layer now waits for the upstream, and whether the client was given something that it
    /// has yet to take.
    pub(crate) fn handle_poll(&mut self, waits_for_upstream: bool, is_unread: bool, now: Instant) {
        self.settle_blocked(now);
        self.blocked_since = (!waits_for_upstream).then_some(now);
        // The server polls because the client has taken the data that was ready.
        self.unread_since = is_unread.then_some(now);
        self.fired.write = false;
    }

    fn settle_blocked(&mut self, now: Instant) {
        if let Some(since) = self.blocked_since.take() {
            self.excused += now.saturating_duration_since(since);
        }
    }

    /// When [`check`](Self::check) is due if nothing changes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.content_deadline(),
            self.write_deadline(),
            self.age_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The latest time of the next [`check`](Self::check) for a caller that is not notified of changes. `None` if no check is needed.
    pub(crate) fn next_check(&self, now: Instant) -> Option<Instant> {
        let limits = [self.limits.gap, self.limits.write_stall];
        // A limit that starts to run after this time ends later than these.
        let new = limits.into_iter().flatten();
        let new = new.filter_map(|limit| now.checked_add(limit)).min();
        // If the layer now stops waiting for the client or an interceptor, a limit may be due soon.
        let blocked = self.blocked_since.map(|since| now - since);
        let content = self.content_deadline_after(blocked.unwrap_or_default());
        let earliest = now + BLOCKED_PAUSE;
        let content = content.map(|at| {
            if blocked.is_some() {
                at.max(earliest)
            } else {
                at
            }
        });
        let deadlines = [content, self.write_deadline(), self.age_deadline(), new];
        deadlines.into_iter().flatten().min()
    }

    fn content_deadline(&self) -> Option<Instant> {
        if self.blocked_since.is_some() {
            return None;
        }
        self.content_deadline_after(Duration::ZERO)
    }

    /// The deadline of the next content if this time is excused, too.
    fn content_deadline_after(&self, blocked: Duration) -> Option<Instant> {
        let (since, limit) = match self.last_content {
            Some(last) => (last, self.limits.gap?),
            None => (self.head_at, self.limits.first_content?),
        };
        if self.fired.content {
            return None;
        }
        since
            .checked_add(limit)?
            .checked_add(self.excused)?
            .checked_add(self.reconnected_after.unwrap_or_default())?
            .checked_add(blocked)
    }

    fn write_deadline(&self) -> Option<Instant> {
        let limit = self.limits.write_stall.filter(|_| !self.fired.write)?;
        self.unread_since?.checked_add(limit)
    }

    fn age_deadline(&self) -> Option<Instant> {
        self.expires_at.filter(|_| !self.fired.age)
    }

    /// Returns the limit that is exceeded at `now`. Each is returned once.
    pub(crate) fn check(&mut self, now: Instant) -> Option<WatchdogKind> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if is_due(self.age_deadline()) {
            self.fired.age = true;
            return Some(WatchdogKind::Age);
        }
        if is_due(self.write_deadline()) {
            self.fired.write = true;
            return Some(WatchdogKind::Write);
        }
        if is_due(self.content_deadline()) {
            self.fired.content = true;
            return Some(match self.last_content {
                Some(_) => WatchdogKind::Gap,
                None => WatchdogKind::First,
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watchdog(limits: Limits) -> (StreamWatchdog, Instant) {
        let start = Instant::now();
        (StreamWatchdog::new(limits, start, start + SECOND), start)
    }

    fn content_limits() -> Limits {
        Limits {
            first_content: Some(10 * SECOND),
            gap: Some(5 * SECOND),
            ..Limits::default()
        }
    }

    #[tokio::test]
    async fn first_content_is_due_from_the_head_on_and_gaps_from_the_last_content_on() {
        let (mut watchdog, start) = watchdog(content_limits());
        watchdog.handle_poll(true, false, start + SECOND);
        assert_eq!(watchdog.deadline(), Some(start + 11 * SECOND));
        assert_eq!(watchdog.check(start + 10 * SECOND), None);
        assert_eq!(watchdog.handle_content(start + 10 * SECOND), None);
        watchdog.handle_poll(true, false, start + 10 * SECOND);
        assert_eq!(watchdog.deadline(), Some(start + 15 * SECOND));
        assert_eq!(watchdog.check(start + 15 * SECOND), Some(WatchdogKind::Gap));
        // Once for each gap.
        assert_eq!(watchdog.check(start + 16 * SECOND), None);
        assert_eq!(
            watchdog.handle_content(start + 17 * SECOND),
            Some(7 * SECOND)
        );
        assert_eq!(watchdog.check(start + 22 * SECOND), Some(WatchdogKind::Gap));
    }

    #[tokio::test]
    async fn silence_before_the_first_content_fires() {
        let (mut watchdog, start) = watchdog(content_limits());
        watchdog.handle_poll(true, false, start + SECOND);
        assert_eq!(
            watchdog.check(start + 11 * SECOND),
            Some(WatchdogKind::First)
        );
    }

    #[tokio::test]
    async fn silent_upstream_is_asked_to_continue_once_until_the_next_content() {
        let limits = Limits {
            reconnects: true,
            ..content_limits()
        };
        let (mut watchdog, start) = watchdog(limits);
        watchdog.handle_content(start + 2 * SECOND);
        watchdog.handle_poll(true, false, start + 2 * SECOND);
        assert_eq!(watchdog.check(start + 7 * SECOND), Some(WatchdogKind::Gap));
        assert!(watchdog.may_reconnect(WatchdogKind::Gap));
        assert!(!watchdog.may_reconnect(WatchdogKind::Age));
        watchdog.handle_reconnect(start + 7 * SECOND);
        assert_eq!(watchdog.deadline(), None);
        // The request is sent after 3 s, and the upstream is silent.
        watchdog.handle_poll(true, false, start + 10 * SECOND);
        assert_eq!(watchdog.deadline(), Some(start + 15 * SECOND));
        assert_eq!(watchdog.check(start + 15 * SECOND), Some(WatchdogKind::Gap));
        assert!(!watchdog.may_reconnect(WatchdogKind::Gap));
        watchdog.handle_content(start + 16 * SECOND);
        assert!(watchdog.may_reconnect(WatchdogKind::Gap));
    }

    #[tokio::test]
    async fn time_blocked_on_a_client_or_an_interceptor_is_excused() {
        let (mut watchdog, start) = watchdog(content_limits());
        watchdog.handle_content(start + SECOND);
        watchdog.handle_poll(false, true, start + SECOND);
        assert_eq!(watchdog.deadline(), None);
        assert_eq!(watchdog.check(start + 100 * SECOND), None);
        watchdog.handle_poll(true, false, start + 101 * SECOND);
        assert_eq!(watchdog.deadline(), Some(start + 106 * SECOND));
        // Pings in between do not begin the limit anew.
        for seconds in 102..106 {
            watchdog.handle_poll(false, true, start + seconds * SECOND);
            watchdog.handle_poll(true, false, start + seconds * SECOND);
        }
        assert_eq!(
            watchdog.check(start + 106 * SECOND),
            Some(WatchdogKind::Gap)
        );
    }

    #[tokio::test]
    async fn client_that_takes_nothing_stalls_and_one_that_takes_does_not() {
        let limits = Limits {
            write_stall: Some(3 * SECOND),
            ..Limits::default()
        };
        let (mut watchdog, start) = watchdog(limits);
        watchdog.handle_poll(false, true, start);
        watchdog.handle_poll(true, false, start + 2 * SECOND);
        assert_eq!(watchdog.deadline(), None);
        watchdog.handle_poll(false, true, start + 5 * SECOND);
        assert_eq!(watchdog.check(start + 7 * SECOND), None);
        assert_eq!(
            watchdog.check(start + 8 * SECOND),
            Some(WatchdogKind::Write)
        );
    }
}
