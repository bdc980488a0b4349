//! How blocks share segments, how much they count, and how capacity grows and shrinks.

use super::*;

fn push(blocks: &mut Blocks, size: usize) {
    let block = Bytes::from(vec![b'x'; size]);
    blocks.push(block.into(), true, 0, Instant::now());
}

#[test]
fn size_from_counts_the_blocks_that_follow_with_their_overhead() {
    let mut blocks = Blocks::new();
    for size in [100, 200, 300, 5000, 400] {
        push(&mut blocks, size);
    }
    let sizes = |blocks: &Blocks| [0, 1, 3, 4, 5].map(|from| blocks.size_from(from));
    let overhead = BLOCK_OVERHEAD as u64;
    let size = |number: u64, bytes: u64| (number, bytes + number * overhead);
    let (after_one, ends) = (size(4, 5900), [size(2, 5400), size(1, 400), (0, 0)]);
    let [a, b, c] = ends;
    assert_eq!(sizes(&blocks), [size(5, 6000), after_one, a, b, c]);
    blocks.evict_oldest();
    assert_eq!(sizes(&blocks), [after_one, after_one, a, b, c]);
}

#[test]
fn compact_makes_one_segment_of_a_small_log_and_keeps_the_segments_of_a_large_one() {
    for (sizes, segments) in [
        // No two neighbors are small.
        (&[100, 3000, 100, 3000][..], 1),
        (&[100, 20_000, 100, 20_000], 4),
        (&[100, 100, 20_000, 100], 3),
    ] {
        let mut blocks = Blocks::new();
        for &size in sizes {
            push(&mut blocks, size);
        }
        blocks.compact();
        assert_eq!(blocks.segments.len(), segments, "{sizes:?}");
        assert_eq!(blocks.size_from(0).0, sizes.len() as u64);
    }
}

#[test]
fn capacity_grows_by_a_quarter_and_shrinks_when_less_than_half_is_used() {
    let (mut deque, mut growths) = (VecDeque::new(), 0);
    for number in 0..10_000 {
        let before = deque.capacity();
        grow(&mut deque);
        growths += usize::from(deque.capacity() != before);
        deque.push_back(number);
    }
    assert!(growths < 50, "{growths} allocations");
    assert!(deque.capacity() <= 12_500);

    let shrunk = |len: usize, capacity| {
        let mut deque = VecDeque::with_capacity(capacity);
        deque.extend(0..len);
        assert_eq!(deque.capacity(), capacity);
        shrink(&mut deque);
        deque.capacity()
    };
    assert_eq!(shrunk(50, 100), 100);
    assert_eq!(shrunk(49, 100), 61);
    assert_eq!(shrunk(1, 16), 16);
    assert_eq!(shrunk(1, 18), 1);
}

#[test]
fn trim_frees_spare_entries_if_they_are_more_than_half() {
    let mut blocks = Blocks::new();
    for _ in 0..10_000 {
        let block = Bytes::from_static(b"data: 1\n\n");
        blocks.push(block.into(), true, 0, Instant::now());
    }
    let mut evict_all_but = |left: usize| {
        while blocks.len() > left {
            blocks.evict_oldest();
        }
        let before = blocks.entries.capacity();
        blocks.trim();
        (before, blocks.entries.capacity())
    };
    let (before, after) = evict_all_but(7_000);
    assert_eq!(before, after, "most entries are in use");
    for left in [3_000, 16] {
        let (_, after) = evict_all_but(left);
        // A quarter is left for the next blocks.
        let expected = left * 5 / 4..left * 3 / 2;
        assert!(expected.contains(&after), "{after} for {left} blocks");
    }
}
