//! Tests of what the decoder does with memory, which its items do not show.

use std::sync::Arc;

use super::*;

fn decoder(text: &'static str) -> Decoder {
    let mut decoder = Decoder::new(1 << 20).check_utf8(true);
    decoder.state = State::Block;
    decoder.push(text.into());
    decoder
}

#[test]
fn most_blocks_take_the_short_way_and_a_chunk_is_checked_once() {
    let mut decoder = decoder("data: 1\n\ndata: 2\n\ndata: 3\n\n");
    let first = decoder.next_whole_block().unwrap();
    assert!(first.meta.is_well_formed());
    let shared = Arc::strong_count(&first.slice.chunk);
    let second = decoder.next_whole_block().unwrap();
    decoder.recycle(second);
    assert_eq!(Arc::strong_count(&first.slice.chunk), shared + 1);
    let third = decoder.next_item();
    assert!(matches!(third, Ok(Some(Item::Event(_)))));
    // The third took the place of the second, and the decoder has let go.
    assert_eq!(Arc::strong_count(&first.slice.chunk), shared);
}

#[test]
fn a_block_that_crosses_chunks_is_looked_at_for_text_as_a_whole_and_once() {
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
fn room_is_made_once_for_an_event_as_large_as_the_last_one() {
    let mut decoder = Decoder::new(1 << 20);
    let mut carried = |chunks: &[usize]| {
        for size in chunks {
            decoder.push("x".repeat(*size).into());
            assert_eq!(decoder.next_item(), Ok(None));
        }
        let room = decoder.carry.capacity();
        decoder.push("\ndata\n\n".into());
        assert!(matches!(decoder.next_item(), Ok(Some(Item::Event(_)))));
        room
    };
    carried(&[30_000, 34_000]);
    assert!(carried(&[8100]) >= 64_000);
    carried(&[30_000, 34_000]);
    // A small one at the end of a chunk does not take so much.
    assert!(carried(&[100]) < 1000);
}

#[test]
fn renewed_decoder_names_no_open_end_again() {
    let late = |decoder: &mut Decoder| {
        decoder.push("data: 1\r\r".into());
        assert!(matches!(decoder.next_item(), Ok(Some(Item::Event(_)))));
        decoder.push("\n".into());
        let Ok(Some(Item::SplitLineFeed(late))) = decoder.next_item() else {
            panic!("the LF belongs to the CR before it");
        };
        late
    };
    let mut decoder = Decoder::new(100);
    let first = late(&mut decoder);
    assert_ne!(late(&mut decoder.renewed()), first);
}
