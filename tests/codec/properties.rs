//! What the codec promises for any input, in any chunks.

use std::time::Duration;

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::RngSeed,
};
use tower_sse_proxy::{
    Event,
    codec::{Block, Decoder, EventTooLarge, Item, Line, OversizedEvent},
};

use crate::client::{Client, decode, raw, repaired};
use crate::input::{Out, chunks, feed, input, scraps};
use crate::reference::{Reference, Whole, cut, whole};

/// The same cases each time, so that a change is judged by what it changes. `PROPTEST_CASES=1000000` looks at more of
/// them; `PROPTEST_RNG_SEED=7` at others.
fn config(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        failure_persistence: None,
        cases: std::env::var_os("PROPTEST_CASES").map_or(cases, |_| asked.cases),
        rng_seed: match asked.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            chosen => chosen,
        },
        ..asked
    }
}

// ---- Decoding

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn any_chunking_gives_the_same_pieces_and_loses_no_byte(input in input(), chunks in chunks()) {
        let out = feed(Decoder::default(), &input, &chunks);
        prop_assert_eq!(out.errors, []);
        prop_assert_eq!(Bytes::from_iter(out.pieces.iter().flat_map(raw).copied()), &input);
        prop_assert_eq!(whole(&out.pieces), cut(&input));
    }

    #[test]
    fn a_client_reads_what_the_steps_of_the_standard_give(input in input(), chunks in chunks()) {
        let pieces = feed(Decoder::default(), &input, &chunks).pieces;
        let expected = Reference::read(&input);
        prop_assert_eq!(&Client::read(&pieces), &expected);
        prop_assert_eq!(Client::read(&decode([&repaired(&pieces)[..]])), expected);
    }
}

// ---- Limits

/// An input with a limit: one off the size of one of its blocks, that size, or any.
fn limited() -> impl Strategy<Value = (Bytes, usize)> {
    let parts = (input(), any::<Index>(), 0..4usize, 16..80usize);
    parts.prop_map(|(input, which, near, any)| {
        let mut sizes: Vec<_> = cut(&input).iter().map(Whole::counted).collect();
        sizes.retain(|&size| size > 16);
        let limit = match near {
            1.. if !sizes.is_empty() => which.get(&sizes) + near - 2,
            _ => any,
        };
        (input, limit)
    })
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn the_first_block_above_the_limit_ends_the_stream((input, limit) in limited(), chunks in chunks()) {
        let mut expected = cut(&input);
        let large = expected.iter().position(|block| block.counted() > limit);
        expected.truncate(large.unwrap_or(expected.len()));

        let out = feed(Decoder::new(limit), &input, &chunks);
        prop_assert_eq!(out.errors, Vec::from_iter(large.map(|_| EventTooLarge { limit })));
        prop_assert_eq!(whole(&out.pieces), expected);
    }

    #[test]
    fn only_blocks_above_the_limit_are_discarded((input, limit) in limited(), chunks in chunks()) {
        let mut expected = cut(&input);
        expected.retain(|block| block.counted() <= limit);

        let decoder = Decoder::new(limit).oversized_event(OversizedEvent::Discard);
        let out = feed(decoder, &input, &chunks);
        prop_assert_eq!(out.errors, []);
        prop_assert_eq!(whole(&out.pieces), expected);
    }
}

// ---- Edits

#[derive(Clone, Debug)]
enum Edit {
    Data(String),
    Event(String),
    Id(String),
    RemoveId,
    Retry(Duration),
}

/// Text that could break out of its line.
fn text() -> impl Strategy<Value = String> {
    let bad = select(vec!['\r', '\n', '\0']);
    let odd = select(vec![' ', ':', 'a', '\u{feff}', '\u{2028}', '\u{85}']);
    let fit = prop_oneof![2 => odd, 1 => any::<char>()];
    let any = prop_oneof![1 => bad, 2 => fit.clone()];
    prop_oneof![vec(any, 0..8), vec(fit, 0..8)].prop_map(String::from_iter)
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        text().prop_map(Edit::Data),
        text().prop_map(Edit::Event),
        text().prop_map(Edit::Id),
        Just(Edit::RemoveId),
        (0..5000u64).prop_map(|ms| Edit::Retry(Duration::from_millis(ms))),
        any::<Duration>().prop_map(Edit::Retry),
    ]
}

/// What the accessors of an event say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values {
    data: String,
    event: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
    terminated: bool,
}

impl Values {
    fn of(event: &Event) -> Self {
        Self {
            data: event.data().into_owned(),
            event: event.event_field().map(Into::into),
            id: event.id().map(Into::into),
            retry: event.retry(),
            terminated: event.is_terminated(),
        }
    }

    /// Edits the event, and notes what it must be then.
    fn edit(&mut self, event: &mut Event, edit: &Edit) {
        match edit {
            Edit::Data(data) => {
                event.set_data(data);
                self.data = with_line_feeds(data);
            }
            Edit::Event(name) if one_line(name) => {
                event.set_event(name).unwrap();
                self.event = Some(name.clone());
            }
            Edit::Id(id) if one_line(id) => {
                event.set_id(id).unwrap();
                self.id = Some(id.clone());
            }
            Edit::Event(bad) | Edit::Id(bad) => {
                let before = event.clone();
                event.set_event(bad).unwrap_err();
                event.set_id(bad).unwrap_err();
                assert_eq!(*event, before);
            }
            Edit::RemoveId => {
                event.remove_id();
                self.id = None;
            }
            Edit::Retry(after) => {
                event.set_retry(*after);
                let ms = after.as_millis().try_into().unwrap_or(u64::MAX);
                self.retry = Some(Duration::from_millis(ms));
            }
        }
    }
}

/// Whether a field of one line can hold the text.
fn one_line(text: &str) -> bool {
    !text.contains(['\r', '\n', '\0'])
}

/// Line ends as a client reads them.
fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The pieces of a block that stands in the middle of a stream, where nothing is a byte order mark.
fn decode_mid_stream(raw: &[u8]) -> Vec<Item> {
    let mut pieces = decode([b"\n", raw]);
    assert_eq!(self::raw(&pieces.remove(0)), b"\n");
    pieces
}

/// The lines that no setter owns: the fields, then the comments in no order. (An edit may move a comment past what comes
/// after it, since one that comes first would be a block of its own.)
fn foreign<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> (Vec<String>, Vec<String>) {
    let lines = blocks.into_iter().flat_map(|block| block.lines());
    let foreign = lines.filter(|line| {
        !matches!(line, Line::Field { name, .. } if [&b"data"[..], b"event", b"id", b"retry"].contains(name))
    });
    let (fields, comments): (Vec<_>, Vec<_>) =
        foreign.partition(|line| matches!(line, Line::Field { .. }));
    let shown = |lines: Vec<Line<'_>>| Vec::from_iter(lines.iter().map(|line| format!("{line:?}")));
    let mut comments = shown(comments);
    comments.sort_unstable();
    (shown(fields), comments)
}

fn as_block(piece: &Item) -> &Block {
    match piece {
        Item::Event(event) => event,
        Item::Block(block) => block,
        other => panic!("{other:?} in the middle of a stream"),
    }
}

fn events(pieces: Vec<Item>) -> impl Iterator<Item = Event> {
    pieces.into_iter().filter_map(|piece| match piece {
        Item::Event(event) => Some(event),
        _ => None,
    })
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn an_edited_event_reads_back_as_what_it_was_made(input in scraps(), edits in vec(edit(), 1..5)) {
        for mut event in events(decode([&input[..]])) {
            let foreign_before = foreign([&*event]);
            let mut values = Values::of(&event);
            for edit in &edits {
                values.edit(&mut event, edit);
                prop_assert_eq!(&Values::of(&event), &values);
            }

            let pieces = decode_mid_stream(event.as_bytes());
            prop_assert_eq!(foreign(pieces.iter().map(as_block)), foreign_before);
            prop_assert_eq!(pieces.iter().filter_map(|piece| as_block(piece).retry()).next_back(), values.retry);
            let back: Vec<_> = events(pieces).collect();
            prop_assert_eq!(back.len(), 1);
            prop_assert_eq!(Values { retry: values.retry, ..Values::of(&back[0]) }, values);
        }
    }

    #[test]
    fn an_edited_event_stays_one_piece(input in scraps(), edits in vec(edit(), 1..5)) {
        for mut event in events(decode([&input[..]])) {
            let mut values = Values::of(&event);
            for edit in &edits {
                values.edit(&mut event, edit);
            }
            let pieces = decode_mid_stream(event.as_bytes());
            prop_assert_eq!(pieces.len(), 1, "{:?}", event.raw());
            prop_assert_eq!(Vec::from_iter(events(pieces).map(|event| Values::of(&event))), [values]);
        }
    }

    #[test]
    fn a_new_event_holds_any_text(data in prop_oneof![text(), any::<String>()]) {
        let event = Event::new(&data);
        prop_assert_eq!(event.data(), with_line_feeds(&data));
        let pieces = decode([&event.raw()[..]]);
        prop_assert_eq!(pieces.len(), 1);
        prop_assert_eq!(Vec::from_iter(events(pieces).map(|back| Values::of(&back))), [Values::of(&event)]);
    }

    #[test]
    fn a_comment_holds_any_text(comment in prop_oneof![text(), any::<String>()]) {
        let pieces = decode([&Block::comment(&comment).raw()[..]]);
        let lines: Vec<_> = pieces.iter().flat_map(|piece| as_block(piece).comments()).collect();
        prop_assert_eq!(lines.join("\n"), with_line_feeds(&comment));
        prop_assert_eq!(Client::read(&pieces), Client::default());
    }
}

// ---- Examples

/// What comes out of a decoder right after this input.
fn at_once(input: &'static str) -> Vec<Item> {
    let mut out = Out::default();
    let mut decoder = Decoder::default();
    decoder.push(input.into());
    out.take(&mut decoder, usize::MAX);
    out.pieces
}

#[test]
fn an_event_is_out_after_the_cr_of_its_blank_line() {
    for input in ["data: a\r\r", "data: a\r\n\r", "data: a\n\r"] {
        assert!(matches!(&at_once(input)[..], [Item::Event(event)] if event.raw() == input));
    }
}

#[test]
fn an_lf_after_that_cr_is_no_blank_line() {
    use Item::{Event, SplitLineFeed};
    let pieces = decode([&b"data: a\r\n\r"[..], b"\ndata: b\n\n"]);
    assert!(matches!(pieces[..], [Event(_), SplitLineFeed(_), Event(_)]));
}

#[test]
fn a_comment_and_a_retry_are_out_when_their_line_ends() {
    for input in [
        ":\n",
        ":\r",
        ": hi\r\n",
        "retry: 5\n",
        "retry:\r",
        "retry\n",
    ] {
        assert!(matches!(&at_once(input)[..], [Item::Block(block)] if block.raw() == input));
    }
}

#[test]
fn other_lines_wait_for_the_blank_line() {
    for input in [
        "id: 1\n",
        "data: a\n",
        "retry2\n",
        "id: 1\n: hi\n",
        "data\nretry: 5\n",
    ] {
        assert_eq!(at_once(input), []);
    }
}

#[test]
fn the_last_valid_field_of_a_name_counts() {
    let pieces =
        at_once("id: 1\nid: 2\nid:\0\nevent: e\nevent: f\ndata\nretry: 1\nretry: 2\nretry: x\n\n");
    let [Item::Event(event)] = &pieces[..] else {
        panic!("{pieces:?}")
    };
    assert_eq!(
        (event.id().unwrap(), event.event_field().unwrap()),
        ("2".into(), "f".into())
    );
    assert_eq!(event.retry(), Some(Duration::from_millis(2)));
}

#[test]
fn a_byte_order_mark_is_known_whatever_chunks_it_comes_in() {
    let whole = decode([&b"\xef\xbb\xbfdata: a\n\n"[..]]);
    assert!(matches!(&whole[..], [Item::Bom, Item::Event(_)]));
    assert_eq!(decode([&b"\xef"[..], b"\xbb", b"\xbfdata: a\n\n"]), whole);
    assert_eq!(decode([&b"\xef\xbb"[..], b"\xbfdata: a\n\n"]), whole);
}

/// A decoder that reads what it keeps again with each chunk would take minutes for this.
#[test]
fn a_large_event_may_drip_in_byte_by_byte() {
    for size in [256 << 10, 1 << 20] {
        let input = Event::new("x".repeat(size)).into_block().into_raw();
        let pieces = decode(input.chunks(1));
        assert!(matches!(&pieces[..], [Item::Event(event)] if event.data().len() == size));
        assert!(pieces.iter().map(raw).eq([&input]));
    }
}

#[test]
fn many_lines_of_one_event_may_drip_in_byte_by_byte() {
    let input = Event::new("x\n".repeat(1 << 16)).into_block().into_raw();
    let pieces = decode(input.chunks(1));
    assert!(matches!(&pieces[..], [Item::Event(event)] if event.data().len() == 2 << 16));
}

const SECRETS: &str = "data: secret\n\n: secret\ndata: secret";

/// Whether a text is in there, be it as the numbers of its bytes.
fn shows_a_secret(shown: &str) -> bool {
    shown.contains("secret") || shown.contains("115, 101, 99")
}

#[test]
fn debug_output_of_what_is_decoded_shows_no_text() {
    let pieces = decode([SECRETS.as_bytes()]);
    assert_eq!(pieces.len(), 3);
    let shown = format!("{pieces:?}");
    assert!(!shows_a_secret(&shown), "{shown}");
}

#[test]
fn debug_output_of_a_decoder_shows_no_text() {
    let mut decoder = Decoder::default();
    decoder.push(SECRETS.into());
    let waiting = format!("{decoder:?}");
    Out::default().take(&mut decoder, usize::MAX);
    let unfinished = format!("{decoder:?}");
    assert!(!shows_a_secret(&waiting), "{waiting}");
    assert!(!shows_a_secret(&unfinished), "{unfinished}");
}

#[test]
fn a_detached_block_is_the_same_and_does_not_keep_its_chunk() {
    let mut decoder = Decoder::default();
    let small = "id: 1\ndata: a\n\n: b\n";
    let chunk = Bytes::from(format!("{small}data: {}\n\n", "x".repeat(100 << 10)));
    decoder.push(chunk.clone());
    let within = |bytes: &[u8]| chunk.as_ptr_range().contains(&bytes.as_ptr());
    let (mut seen, mut kept) = (Vec::new(), Vec::new());
    while let Some(piece) = decoder.next_item().unwrap() {
        let block = match piece {
            Item::Event(event) => {
                let detached = event.clone().into_owned();
                assert_eq!(detached.data(), event.data());
                detached.into_block()
            }
            Item::Block(block) => block.into_owned(),
            other => panic!("{other:?}"),
        };
        kept.push(within(block.as_bytes()));
        seen.extend_from_slice(block.as_bytes());
    }
    assert_eq!(seen, chunk);
    // The large one is most of the chunk.
    assert_eq!(kept, [false, false, true]);
}
