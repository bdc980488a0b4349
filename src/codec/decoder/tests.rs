//! How the decoder uses memory, which cannot be seen in its items.

use std::sync::Arc;

use super::*;

fn decoder(text: &'static str) -> Decoder {
    let mut decoder = Decoder::new(1 << 20).check_utf8(true);
    decoder.state = State::Block;
    decoder.push(text.into());
    decoder
}

#[test]
fn recycle_lends_the_reference_of_a_block_to_the_next_one() {
    let mut decoder = decoder("data: 1\n\ndata: 2\n\ndata: 3\n\n");
    let first = decoder.next_whole_block().unwrap();
    assert!(first.meta.is_well_formed());
    let shared = Arc::strong_count(&first.slice.chunk);
    let second = decoder.next_whole_block().unwrap();
    decoder.recycle(second);
    assert_eq!(Arc::strong_count(&first.slice.chunk), shared + 1);
    let third = decoder.next_item();
    assert!(matches!(third, Ok(Some(Item::Event(_)))));
    // The third block took the reference of the second, and the decoder has dropped the chunk.
    assert_eq!(Arc::strong_count(&first.slice.chunk), shared);
}

#[test]
fn block_that_crosses_chunks_is_checked_as_a_whole() {
    let whole = format!("data: {}\n\n", "\u{65e5}".repeat(1000));
    let carried = |whole: &[u8]| {
        let mut decoder = Decoder::new(1 << 20).check_utf8(true);
        let (head, tail) = whole.split_at(1000);
        decoder.push(head.to_vec().into());
        assert_eq!(decoder.next_item(), Ok(None));
        decoder.push(tail.to_vec().into());
        match decoder.next_item() {
            Ok(Some(Item::Event(event))) => event.into_block(),
            other => panic!("{other:?}"),
        }
    };
    let block = carried(whole.as_bytes());
    assert!(block.meta.is_well_formed());
    assert!(block.slice.chunk.text(6..9).is_some());

    let mut ill_formed = whole.into_bytes();
    ill_formed[2000] = 0xff;
    let block = carried(&ill_formed);
    assert!(!block.meta.is_well_formed());
    assert!(block.slice.chunk.text(6..9).is_some());
}

#[test]
fn carry_reserves_the_size_of_the_last_large_event() {
    let mut decoder = Decoder::new(1 << 20);
    let mut carried = |chunks: &[usize]| {
        for size in chunks {
            decoder.push("x".repeat(*size).into());
            assert_eq!(decoder.next_item(), Ok(None));
        }
        let capacity = decoder.carry.capacity();
        decoder.push("\ndata\n\n".into());
        assert!(matches!(decoder.next_item(), Ok(Some(Item::Event(_)))));
        capacity
    };
    carried(&[30_000, 34_000]);
    assert!(carried(&[8100]) >= 64_000);
    carried(&[30_000, 34_000]);
    // A small rest of a chunk does not reserve so much.
    assert!(carried(&[100]) < 1000);
}

#[test]
fn renewed_decoder_does_not_reuse_a_pending_lf() {
    let split_lf = |decoder: &mut Decoder| {
        decoder.push("data: 1\r\r".into());
        assert!(matches!(decoder.next_item(), Ok(Some(Item::Event(_)))));
        decoder.push("\n".into());
        let Ok(Some(Item::SplitLineFeed(lf))) = decoder.next_item() else {
            panic!("the LF belongs to the CR before it");
        };
        lf
    };
    let mut decoder = Decoder::new(100);
    let first = split_lf(&mut decoder);
    assert_ne!(split_lf(&mut decoder.renewed()), first);
}

#[test]
fn decoder_has_input_from_a_push_until_all_items_are_read() {
    let mut decoder = Decoder::new(100);
    assert!(!decoder.has_input());
    decoder.push("data: 1\n\ndata: 2\n\n".into());
    assert!(decoder.has_input());
    while decoder.next_item().unwrap().is_some() {}
    assert!(!decoder.has_input());
}

#[test]
fn held_bytes_are_those_of_an_unfinished_block_and_of_the_input_that_is_left() {
    let mut decoder = Decoder::new(10_000);
    assert_eq!(decoder.held_bytes(), 0);
    decoder.push("data: 1\n\ndata: 2\n\n".into());
    assert_eq!(decoder.held_bytes(), 18);
    assert!(decoder.next_item().unwrap().is_some());
    assert_eq!(decoder.held_bytes(), 9);
    assert!(decoder.next_item().unwrap().is_some());
    decoder.push("x".repeat(1000).into());
    assert_eq!(decoder.next_item(), Ok(None));
    let unfinished = decoder.held_bytes();
    assert!((1000..2100).contains(&unfinished), "{unfinished}");
    // Two complete blocks, of which the second is still to be read.
    decoder.push("\n\ndata: 2\n\n".into());
    assert!(decoder.next_item().unwrap().is_some());
    assert!(decoder.held_bytes() >= 9);
}
