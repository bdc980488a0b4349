//! Values exactly at a limit: the age of a held block, and a reader that is as far as the first.

use std::{sync::Arc, time::Duration};

use crate::log::tests::*;

#[test]
fn held_block_of_exactly_the_maximum_age_is_due_again_later() {
    let (age, begun) = (Duration::from_secs(10), Instant::now());
    let mut log = Log::new(Retention::default().age(age));
    log.append("data: 1\n\n".into(), begun);
    let now = begun + age;
    // A time that is not later would wake the writer at once, again and again, for as long as the block is held.
    assert_eq!(log.expire_but(now, 1), Some(now + age));
    assert_eq!(log.expire_but(now, 0), None);
}

#[test]
fn reader_that_draws_level_with_the_first_does_not_wake_the_writer() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let cx = &mut Context::from_waker(&waker);
    let channel = channel(Retention::default().events(2));
    let (first, second) = (
        channel.join(channel.oldest()),
        channel.join(channel.oldest()),
    );
    // It takes room while it is unread, and is no event, so the log keeps it longer.
    let comment = ChunkSlice::from(Bytes::from_static(b":"));
    channel.write([(comment, false)], Instant::now());
    write(&channel, &[b"a"]);
    assert!(read(&channel, first, 1).is_some());
    write(&channel, &[b"b"]);
    assert_eq!(channel.poll_demand(cx, 0), WriteDemand::Wait);
    // The second reader makes no room: the first has read as much.
    assert!(read(&channel, second, 1).is_some());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    assert!(read(&channel, second, 1).is_some());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
}
