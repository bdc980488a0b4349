//! Request bodies that are read before the request is sent.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The body of a request that [`Heal`](super::Heal) has read: the bytes that were read, and the rest of the client's body, if any.
///
/// The function of [`HealLayer::new`](super::HealLayer::new) turns it into the body type of the service.
pub struct HealBody<B: Body> {
    data: Bytes,
    next: Option<Result<Frame<Bytes>, B::Error>>,
    rest: Option<Pin<Box<B>>>,
}

/// Nothing is pinned but the content of a box.
impl<B: Body> Unpin for HealBody<B> {}

impl<B: Body> From<Bytes> for HealBody<B> {
    fn from(data: Bytes) -> Self {
        Self {
            data,
            next: None,
            rest: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for HealBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        match &mut self.rest {
            Some(rest) => rest.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
            && self.next.is_none()
            && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let next = match &self.next {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        let read = (self.data.len() + next) as u64;
        let rest = self.rest.as_ref().map(|rest| rest.size_hint());
        let rest = rest.unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

impl<B: Body> fmt::Debug for HealBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealBody").finish_non_exhaustive()
    }
}

/// The part of a request body that was read.
pub(super) enum ReadBody<B: Body> {
    Whole(HeldBody),
    /// The body is too large, has trailers or failed, or no memory is left for it.
    Part(HealBody<B>),
}

/// Reads a body up to this limit, in bytes.
///
/// # Cancellation
/// If the future is dropped, the body is dropped too.
pub(super) async fn read<B: Body<Data = Bytes>>(
    body: B,
    limit: usize,
    budget: &Arc<Budget>,
) -> ReadBody<B> {
    let mut rest = Box::pin(body);
    let mut read = Vec::new();
    let mut reserved = Reserved::new(budget);
    let part = |read: Vec<u8>, next, rest| {
        let data = read.into();
        ReadBody::Part(HealBody { data, next, rest })
    };
    loop {
        // Before the first frame too, so that a body of a known size is not read in vain.
        let more = usize::try_from(rest.size_hint().lower()).unwrap_or(usize::MAX);
        if read.len().saturating_add(more) > limit {
            return part(read, None, Some(rest));
        }
        let frame = match poll_fn(|cx| rest.as_mut().poll_frame(cx)).await {
            None => {
                // A copy without spare capacity.
                let bytes = Bytes::from(read.into_boxed_slice());
                return ReadBody::Whole(HeldBody { bytes, reserved });
            }
            Some(Err(error)) => return part(read, Some(Err(error)), None),
            Some(Ok(frame)) => frame,
        };
        let fits = |data: &Bytes| read.len().saturating_add(data.len()) <= limit;
        match frame.data_ref() {
            Some(data) if fits(data) && reserved.grow(data.len()) => read.extend_from_slice(data),
            _ => return part(read, Some(Ok(frame)), Some(rest)),
        }
    }
}

/// A whole body. It counts against the budget until it is dropped.
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    #[expect(dead_code, reason = "returns its bytes when it is dropped")]
    reserved: Reserved,
}

impl HeldBody {
    /// The body of a request that has none.
    pub(super) fn empty(budget: &Arc<Budget>) -> Self {
        Self {
            bytes: Bytes::new(),
            reserved: Reserved::new(budget),
        }
    }
}

/// The number of bytes that may be held at once.
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }
}

struct Reserved {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reserved {
    fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Takes more bytes from the budget. Returns false if it has too few.
    fn grow(&mut self, bytes: usize) -> bool {
        let left = &self.budget.0;
        let take = |left: usize| left.checked_sub(bytes);
        let fits = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok();
        if fits {
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt;
    use http::HeaderMap;
    use http_body_util::BodyExt;

    use super::*;

    /// A body of these frames.
    struct Frames(VecDeque<Result<Frame<Bytes>, &'static str>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(text.into()))
    }

    fn read_now<B: Body<Data = Bytes>>(body: B, limit: usize, budget: &Arc<Budget>) -> ReadBody<B> {
        read(body, limit, budget).now_or_never().unwrap()
    }

    /// The data, the trailers and the error of a body.
    fn rest(mut body: HealBody<Frames>) -> (String, bool, Option<&'static str>) {
        let (mut text, mut has_trailers) = (String::new(), false);
        while let Some(frame) = body.frame().now_or_never().unwrap() {
            match frame {
                Err(error) => return (text, has_trailers, Some(error)),
                Ok(frame) => match frame.into_data() {
                    Ok(data) => text += std::str::from_utf8(&data).unwrap(),
                    Err(_) => has_trailers = true,
                },
            }
        }
        (text, has_trailers, None)
    }

    #[test]
    fn body_within_the_limit_is_read_whole_and_returns_its_budget() {
        let budget = Arc::new(Budget::new(8));
        let body = Frames([data("abcd"), data(""), data("efgh")].into());
        let ReadBody::Whole(held) = read_now(body, 8, &budget) else {
            panic!("not whole");
        };
        assert_eq!(held.bytes, "abcdefgh");
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
        let ReadBody::Part(part) = read_now(Frames([data("x")].into()), 8, &budget) else {
            panic!("no budget is left");
        };
        assert_eq!(rest(part), ("x".into(), false, None));
        drop(held);
        assert_eq!(budget.0.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn body_that_cannot_be_held_loses_nothing() {
        let trailers = || Ok(Frame::trailers(HeaderMap::new()));
        for (frames, expected) in [
            (
                vec![data("abcd"), data("e"), data("f")],
                ("abcdef", false, None),
            ),
            (vec![data("abcdef")], ("abcdef", false, None)),
            (vec![data("ab"), trailers()], ("ab", true, None)),
            (vec![data("ab"), Err("cut")], ("ab", false, Some("cut"))),
        ] {
            let budget = Arc::new(Budget::new(100));
            let ReadBody::Part(part) = read_now(Frames(frames.into()), 4, &budget) else {
                panic!("whole");
            };
            assert_eq!(budget.0.load(Ordering::Relaxed), 100);
            let (text, has_trailers, error) = expected;
            assert_eq!(rest(part), (text.into(), has_trailers, error));
        }
    }

    #[test]
    fn size_of_a_body_is_exact_if_that_of_the_rest_is() {
        type Full = http_body_util::Full<Bytes>;
        let budget = Arc::new(Budget::new(100));
        let body = Full::from("abcdef");
        let ReadBody::Part(part) = read_now(body, 4, &budget) else {
            panic!("whole");
        };
        assert_eq!(part.size_hint().exact(), Some(6));
        assert_eq!(
            HealBody::<Full>::from(Bytes::from("abc"))
                .size_hint()
                .exact(),
            Some(3)
        );
        let empty = HealBody::<http_body_util::Empty<Bytes>>::from(Bytes::new());
        assert!(empty.is_end_stream());
    }
}
