//! Asks a judge about a batch, and turns its decisions into a verdict.

use std::time::Duration;

use futures_util::future::{TryJoinAll, try_join_all};
use tower::BoxError;

use super::{
    batch::{Batch, BatchResult, Settled},
    decision::Decision,
    judge::{DecisionFuture, Judge},
    questions::Questions,
    settings::OnBlock,
};
use crate::{
    error::{Error, ErrorKind},
    intercept::Verdict,
};

/// The error of a stream that a judge blocked, without [`on_block`](super::TextWindow::on_block).
pub(super) const BLOCKED: &str = "a judge blocked the stream";

/// The decisions on all questions of a batch. They are made concurrently.
pub(super) type Decisions = TryJoinAll<DecisionFuture>;

/// Asks a judge all questions of a batch.
pub(super) fn ask(judge: &dyn Judge, questions: &Questions) -> Decisions {
    try_join_all(questions.segments().map(|segment| judge.judge(segment)))
}

/// Waits for the decisions, at most for `limit`.
pub(super) async fn within(
    limit: Option<Duration>,
    decisions: Decisions,
) -> Result<Vec<Decision>, BoxError> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, decisions)
            .await
            .map_err(|_| Error::new(ErrorKind::InterceptorTimedOut))?,
        None => decisions.await,
    }
}

/// The settings that turn decisions into a verdict.
pub(super) struct VerdictRules {
    pub(super) fail_open: bool,
    pub(super) on_block: Option<OnBlock>,
}

impl VerdictRules {
    /// Carries out the decisions, one for each segment of the batch. Also returns the items that do not leave yet.
    pub(super) fn carry_out(
        &self,
        batch: Batch,
        decisions: Result<Vec<Decision>, BoxError>,
    ) -> (Verdict, BatchResult) {
        let checked = decisions.map(|decisions| batch.check(&decisions).map(|()| decisions));
        let error = match checked {
            Ok(Ok(decisions)) => {
                let Settled { blocks, result } = batch.settle(decisions);
                let verdict = match (blocks, &self.on_block) {
                    (Some(blocks), _) => Verdict::Release(blocks),
                    (None, Some(on_block)) => Verdict::End(on_block()),
                    (None, None) => Verdict::block(BLOCKED),
                };
                return (verdict, result);
            }
            Ok(Err(invalid)) => invalid.into(),
            Err(error) => error,
        };
        if self.fail_open {
            let Settled { blocks, result } = batch.release_unchanged();
            return (Verdict::Release(blocks.unwrap_or_default()), result);
        }
        (Verdict::fail(error), BatchResult::default())
    }
}
