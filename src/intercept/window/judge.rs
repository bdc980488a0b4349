//! The judge of a window: user code that decides about texts.

use std::{
    future::{Future, ready},
    pin::Pin,
};

use tower::{BoxError, Service, util::Oneshot};

use super::{
    decision::{Decision, TextSegment},
    scan::StartScan,
};

/// The future that [`Judge::judge`] returns. An error is a failure of the interceptor.
pub type DecisionFuture = Pin<Box<dyn Future<Output = Result<Decision, BoxError>> + Send>>;

/// Decides about texts. Functions `Fn(&TextSegment) -> Decision` and [`JudgeService`]s implement this trait.
///
/// All streams of a [`TextWindow`](super::TextWindow) share one judge.
///
/// ```
/// use tower_sse_proxy::intercept::window::{Decision, DecisionFuture, Judge, TextSegment, TextWindow};
/// # async fn is_toxic(text: &str) -> Result<bool, std::io::Error> { Ok(text.contains("toxic")) }
///
/// /// Calls a classifier, but not for short texts.
/// struct Classifier;
///
/// impl Judge for Classifier {
///     fn judge(&self, segment: TextSegment) -> DecisionFuture {
///         if segment.text.len() < 20 {
///             return Box::pin(std::future::ready(Ok(Decision::Pass)));
///         }
///         Box::pin(async move {
///             let is_toxic = is_toxic(&segment.text).await?;
///             Ok(if is_toxic { Decision::Block } else { Decision::Pass })
///         })
///     }
/// }
///
/// let window = TextWindow::new(Classifier);
/// ```
pub trait Judge: Send + Sync + 'static {
    /// Decides about one text.
    ///
    /// The window polls the future at once, and holds the text and everything behind it until the future is ready. The
    /// futures of several texts run concurrently. The window drops them when the stream ends or
    /// [`judge_timeout`](super::TextWindow::judge_timeout) elapses.
    ///
    /// # Panics
    /// A panic here or in the future cuts the stream.
    fn judge(&self, segment: TextSegment) -> DecisionFuture;

    /// Returns a function that starts an incremental scan of a text, if the judge has one.
    #[doc(hidden)]
    fn incremental(&self) -> Option<StartScan> {
        None
    }
}

impl<F> Judge for F
where
    F: Fn(&TextSegment) -> Decision + Send + Sync + 'static,
{
    fn judge(&self, segment: TextSegment) -> DecisionFuture {
        Box::pin(ready(Ok(self(&segment))))
    }
}

/// A tower service as a judge: `Service<TextSegment, Response = Decision>`.
///
/// Each text is one call of a clone of the service. The stream of the text waits for the response; other streams do not.
/// [`TextWindow::service`](super::TextWindow::service) makes one.
#[derive(Clone, Debug)]
pub struct JudgeService<S> {
    service: S,
}

impl<S> JudgeService<S> {
    /// Wraps a service.
    pub fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S> Judge for JudgeService<S>
where
    S: Service<TextSegment, Response = Decision> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn judge(&self, segment: TextSegment) -> DecisionFuture {
        let response = Oneshot::new(self.service.clone(), segment);
        Box::pin(async move { response.await.map_err(Into::into) })
    }
}
