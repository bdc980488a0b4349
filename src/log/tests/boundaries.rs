//! Values exactly at a limit: the age of a protected block, and a reader at the cursor of the fastest.

use std::{sync::Arc, time::Duration};

use crate::log::tests::*;

#[test]
fn protected_block_of_exactly_the_maximum_age_is_due_again_later() {
    let (age, begun) = (Duration::from_secs(10), Instant::now());
    let mut log = Log::new(Retention::default().age(age));
    append(&mut log, "data: 1\n\n", begun);
    let now = begun + age;
    // A time that is not later would wake the writer at once, again and again, while the block is protected.
    assert_eq!(log.expire(now, 1), Some(now + age));
    assert_eq!(log.expire(now, 0), None);
}

#[test]
fn reader_that_reaches_the_fastest_does_not_wake_the_writer() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let log = shared_log(Retention::default().events(2));
    let (first, second) = (log.subscribe(log.oldest()), log.subscribe(log.oldest()));
    // An unread comment takes space, and does not count as an event.
    let comment = ChunkSlice::from(Bytes::from_static(b":"));
    log.write([(comment, false)], Instant::now());
    write(&log, &[b"a"]);
    assert!(read(&log, first, 1).is_some());
    write(&log, &[b"b"]);
    assert_eq!(log.poll_demand(cx, 0), WriteDemand::Wait);
    // The second reader makes no room: the first has read as far.
    assert!(read(&log, second, 1).is_some());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    assert!(read(&log, second, 1).is_some());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
}
