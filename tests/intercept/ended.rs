//! An interceptor that has ended the stream gets no further events.

use std::sync::{Arc, Mutex};

use crate::support::{layer, through};
use tower_sse_proxy::{
    Event,
    intercept::{Interceptor, StreamEnd, StreamHead, Verdict},
};

/// Holds events with the data `hold`, and releases them at the end of the stream.
struct Holding(Vec<Event>);

impl Interceptor for Holding {
    fn event(&mut self, event: Event) -> Verdict {
        if event.data() != "hold" {
            return event.into();
        }
        self.0.push(event);
        Verdict::Hold
    }

    fn end(&mut self, _: StreamEnd<'_>) -> Verdict {
        Verdict::Release(self.0.drain(..).map(Into::into).collect())
    }
}

#[tokio::test]
async fn interceptor_that_ended_the_stream_gets_no_event_held_by_an_earlier_one() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let layer =
        layer(|_: &StreamHead<'_>| Some(Holding(Vec::new()))).intercept(move |event: Event| {
            log.lock().unwrap().push(event.data().into_owned());
            Verdict::End(vec![event.into()])
        });
    let (out, failed) = through(&layer, "data: hold\n\ndata: last\n\n").await;
    assert_eq!((out.as_str(), failed), ("data: last\n\n", None));
    assert_eq!(*seen.lock().unwrap(), ["last"]);
}
