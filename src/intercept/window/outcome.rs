//! The verdict that follows from the decisions on a batch.

use std::time::Duration;

use futures_util::future::try_join_all;
use tower::BoxError;

use super::{
    batch::{Batch, Rest, Settled},
    decision::Decision,
    judge::Ruling,
    settings::OnBlock,
};
use crate::{
    error::{Error, ErrorKind},
    intercept::Verdict,
};

pub(super) const BLOCKED: &str = "a judge blocked the stream";

/// The judgements, if all are known.
pub(super) fn decided(rulings: Vec<Ruling>) -> Result<Vec<Decision>, Vec<Ruling>> {
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
pub(super) async fn all_judgements(
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
pub(super) struct Close {
    pub(super) fail_open: bool,
    pub(super) on_block: Option<OnBlock>,
}

impl Close {
    pub(super) fn carry_out(
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
