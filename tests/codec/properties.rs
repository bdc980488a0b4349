//! Properties of the codec that hold for any input in any chunks.

use std::time::Duration;

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};
use tower_sse_proxy::{
    Event,
    codec::{Block, Decoder, EventTooLarge, Item, Line, OversizedEvent},
};

use crate::cases::cases;
use crate::client::{Client, decode, raw, repaired};
use crate::input::{Out, chunks, feed, input, scraps};
use crate::reference::{Reference, WholeItem, join_line_feeds, split_stream};

// ---- Decoding

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn r24_items_do_not_depend_on_chunks_and_contain_every_byte(input in input(), chunks in chunks()) {
        let out = feed(Decoder::default(), &input, &chunks);
        prop_assert_eq!(out.errors, []);
        prop_assert_eq!(Bytes::from_iter(out.items.iter().flat_map(raw).copied()), &input);
        prop_assert_eq!(join_line_feeds(&out.items), split_stream(&input));
    }

    #[test]
    fn r24_client_reads_the_result_of_the_standard_algorithm(input in input(), chunks in chunks()) {
        let items = feed(Decoder::default(), &input, &chunks).items;
        let expected = Reference::read(&input);
        prop_assert_eq!(&Client::read(&items), &expected);
        prop_assert_eq!(Client::read(&decode([&repaired(&items)[..]])), expected);
    }
}

// ---- Limits

/// An input with a size limit: the size of one of its blocks, one more, one less, or any size.
fn limited() -> impl Strategy<Value = (Bytes, usize)> {
    let parts = (input(), any::<Index>(), 0..4usize, 16..80usize);
    parts.prop_map(|(input, which, near, any)| {
        let mut sizes: Vec<_> = split_stream(&input)
            .iter()
            .map(WholeItem::counted_bytes)
            .collect();
        sizes.retain(|&size| size > 16);
        let limit = match near {
            1.. if !sizes.is_empty() => which.get(&sizes) + near - 2,
            _ => any,
        };
        (input, limit)
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn r24_first_block_above_the_limit_ends_the_stream((input, limit) in limited(), chunks in chunks()) {
        let mut expected = split_stream(&input);
        let large = expected.iter().position(|block| block.counted_bytes() > limit);
        expected.truncate(large.unwrap_or(expected.len()));

        let out = feed(Decoder::new(limit), &input, &chunks);
        prop_assert_eq!(out.errors, Vec::from_iter(large.map(|_| EventTooLarge { limit })));
        prop_assert_eq!(join_line_feeds(&out.items), expected);
    }

    #[test]
    fn r24_only_blocks_above_the_limit_are_discarded((input, limit) in limited(), chunks in chunks()) {
        let mut expected = split_stream(&input);
        expected.retain(|block| block.counted_bytes() <= limit);

        let decoder = Decoder::new(limit).oversized_event(OversizedEvent::Discard);
        let out = feed(decoder, &input, &chunks);
        prop_assert_eq!(out.errors, []);
        prop_assert_eq!(join_line_feeds(&out.items), expected);
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

/// Text with characters that could end its line or be lost.
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

/// The values that an event's accessors return.
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

    /// Edits the event, and updates the expected values.
    fn edit(&mut self, event: &mut Event, edit: &Edit) {
        match edit {
            Edit::Data(data) => {
                event.set_data(data);
                self.data = with_line_feeds(data);
            }
            Edit::Event(name) if fits_in_one_line(name) => {
                event.set_event(name).unwrap();
                self.event = Some(name.clone());
            }
            Edit::Id(id) if fits_in_one_line(id) => {
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

/// Whether `text` is a valid value of a one-line field.
fn fits_in_one_line(text: &str) -> bool {
    !text.contains(['\r', '\n', '\0'])
}

/// The text as a client reads it from `data`: every line end is LF.
fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Decodes a block in the middle of a stream, where U+FEFF is no byte order mark.
fn decode_mid_stream(raw: &[u8]) -> Vec<Item> {
    let mut items = decode([b"\n", raw]);
    assert_eq!(self::raw(&items.remove(0)), b"\n");
    items
}

/// The lines that no setter changes: the fields in order, and the comments sorted. (An edit may move a comment behind the next
/// line, because a comment before all fields would be a separate block.)
fn unedited_lines<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> (Vec<String>, Vec<String>) {
    let lines = blocks.into_iter().flat_map(|block| block.lines());
    let unedited_lines = lines.filter(|line| {
        !matches!(line, Line::Field { name, .. } if [&b"data"[..], b"event", b"id", b"retry"].contains(name))
    });
    let (fields, comments): (Vec<_>, Vec<_>) =
        unedited_lines.partition(|line| matches!(line, Line::Field { .. }));
    let shown = |lines: Vec<Line<'_>>| Vec::from_iter(lines.iter().map(|line| format!("{line:?}")));
    let mut comments = shown(comments);
    comments.sort_unstable();
    (shown(fields), comments)
}

fn as_block(item: &Item) -> &Block {
    match item {
        Item::Event(event) => event,
        Item::Block(block) => block,
        other => panic!("unexpected item in the middle of a stream: {other:?}"),
    }
}

fn events(items: Vec<Item>) -> impl Iterator<Item = Event> {
    items.into_iter().filter_map(|item| match item {
        Item::Event(event) => Some(event),
        _ => None,
    })
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn r24_edited_event_decodes_to_its_edited_values(input in scraps(), edits in vec(edit(), 1..5)) {
        for mut event in events(decode([&input[..]])) {
            let unedited_before = unedited_lines([&*event]);
            let mut values = Values::of(&event);
            for edit in &edits {
                values.edit(&mut event, edit);
                prop_assert_eq!(&Values::of(&event), &values);
            }

            let items = decode_mid_stream(event.as_bytes());
            prop_assert_eq!(unedited_lines(items.iter().map(as_block)), unedited_before);
            prop_assert_eq!(items.iter().filter_map(|item| as_block(item).retry()).next_back(), values.retry);
            let back: Vec<_> = events(items).collect();
            prop_assert_eq!(back.len(), 1);
            prop_assert_eq!(Values { retry: values.retry, ..Values::of(&back[0]) }, values);
        }
    }

    #[test]
    fn r24_edited_event_stays_one_item(input in scraps(), edits in vec(edit(), 1..5)) {
        for mut event in events(decode([&input[..]])) {
            let mut values = Values::of(&event);
            for edit in &edits {
                values.edit(&mut event, edit);
            }
            let items = decode_mid_stream(event.as_bytes());
            prop_assert_eq!(items.len(), 1, "{:?}", event.raw());
            prop_assert_eq!(Vec::from_iter(events(items).map(|event| Values::of(&event))), [values]);
        }
    }

    #[test]
    fn r24_new_event_holds_any_text(data in prop_oneof![text(), any::<String>()]) {
        let event = Event::new(&data);
        prop_assert_eq!(event.data(), with_line_feeds(&data));
        let items = decode([&event.raw()[..]]);
        prop_assert_eq!(items.len(), 1);
        prop_assert_eq!(Vec::from_iter(events(items).map(|back| Values::of(&back))), [Values::of(&event)]);
    }

    #[test]
    fn r24_comment_holds_any_text(comment in prop_oneof![text(), any::<String>()]) {
        let items = decode([&Block::comment(&comment).raw()[..]]);
        let lines: Vec<_> = items.iter().flat_map(|item| as_block(item).comments()).collect();
        prop_assert_eq!(lines.join("\n"), with_line_feeds(&comment));
        prop_assert_eq!(Client::read(&items), Client::default());
    }
}

// ---- Examples

/// The items that a decoder returns right after this input.
fn decode_so_far(input: &'static str) -> Vec<Item> {
    let mut out = Out::default();
    let mut decoder = Decoder::default();
    decoder.push(input.into());
    out.take(&mut decoder, usize::MAX);
    out.items
}

#[test]
fn event_is_complete_at_the_cr_of_its_blank_line() {
    for input in ["data: a\r\r", "data: a\r\n\r", "data: a\n\r"] {
        assert!(matches!(&decode_so_far(input)[..], [Item::Event(event)] if event.raw() == input));
    }
}

#[test]
fn late_lf_of_a_crlf_is_no_blank_line() {
    use Item::{Event, SplitLineFeed};
    let items = decode([&b"data: a\r\n\r"[..], b"\ndata: b\n\n"]);
    assert!(matches!(items[..], [Event(_), SplitLineFeed(_), Event(_)]));
}

#[test]
fn comment_and_retry_are_complete_at_their_line_end() {
    for input in [
        ":\n",
        ":\r",
        ": hi\r\n",
        "retry: 5\n",
        "retry:\r",
        "retry\n",
    ] {
        assert!(matches!(&decode_so_far(input)[..], [Item::Block(block)] if block.raw() == input));
    }
}

#[test]
fn other_lines_wait_for_a_blank_line() {
    for input in [
        "id: 1\n",
        "data: a\n",
        "retry2\n",
        "id: 1\n: hi\n",
        "data\nretry: 5\n",
    ] {
        assert_eq!(decode_so_far(input), []);
    }
}

#[test]
fn last_valid_field_of_a_name_counts() {
    let items = decode_so_far(
        "id: 1\nid: 2\nid:\0\nevent: e\nevent: f\ndata\nretry: 1\nretry: 2\nretry: x\n\n",
    );
    let [Item::Event(event)] = &items[..] else {
        panic!("{items:?}")
    };
    assert_eq!(
        (event.id().unwrap(), event.event_field().unwrap()),
        ("2".into(), "f".into())
    );
    assert_eq!(event.retry(), Some(Duration::from_millis(2)));
}

#[test]
fn byte_order_mark_is_recognized_in_any_chunks() {
    let whole = decode([&b"\xef\xbb\xbfdata: a\n\n"[..]]);
    assert!(matches!(&whole[..], [Item::Bom, Item::Event(_)]));
    assert_eq!(decode([&b"\xef"[..], b"\xbb", b"\xbfdata: a\n\n"]), whole);
    assert_eq!(decode([&b"\xef\xbb"[..], b"\xbfdata: a\n\n"]), whole);
}

/// A decoder that scans its buffer again with each chunk would take minutes for this input.
#[test]
fn large_event_byte_by_byte_takes_linear_time() {
    for size in [256 << 10, 1 << 20] {
        let input = Event::new("x".repeat(size)).into_block().into_raw();
        let items = decode(input.chunks(1));
        assert!(matches!(&items[..], [Item::Event(event)] if event.data().len() == size));
        assert!(items.iter().map(raw).eq([&input]));
    }
}

#[test]
fn many_lines_byte_by_byte_take_linear_time() {
    let input = Event::new("x\n".repeat(1 << 16)).into_block().into_raw();
    let items = decode(input.chunks(1));
    assert!(matches!(&items[..], [Item::Event(event)] if event.data().len() == 2 << 16));
}

const SECRETS: &str = "data: secret\n\n: secret\ndata: secret";

/// Whether the text contains the secret, either as text or as a list of byte values.
fn shows_secret(shown: &str) -> bool {
    shown.contains("secret") || shown.contains("115, 101, 99")
}

#[test]
fn debug_output_of_items_shows_no_text() {
    let items = decode([SECRETS.as_bytes()]);
    assert_eq!(items.len(), 3);
    let shown = format!("{items:?}");
    assert!(!shows_secret(&shown), "{shown}");
}

#[test]
fn debug_output_of_a_decoder_shows_no_text() {
    let mut decoder = Decoder::default();
    decoder.push(SECRETS.into());
    let waiting = format!("{decoder:?}");
    Out::default().take(&mut decoder, usize::MAX);
    let unfinished = format!("{decoder:?}");
    assert!(!shows_secret(&waiting), "{waiting}");
    assert!(!shows_secret(&unfinished), "{unfinished}");
}

#[test]
fn owned_block_is_equal_and_does_not_keep_its_chunk() {
    let mut decoder = Decoder::default();
    let small = "id: 1\ndata: a\n\n: b\n";
    let chunk = Bytes::from(format!("{small}data: {}\n\n", "x".repeat(100 << 10)));
    decoder.push(chunk.clone());
    let within = |bytes: &[u8]| chunk.as_ptr_range().contains(&bytes.as_ptr());
    let (mut seen, mut shares_chunk) = (Vec::new(), Vec::new());
    while let Some(item) = decoder.next_item().unwrap() {
        let block = match item {
            Item::Event(event) => {
                let owned = event.clone().into_owned();
                assert_eq!(owned.data(), event.data());
                owned.into_block()
            }
            Item::Block(block) => block.into_owned(),
            other => panic!("{other:?}"),
        };
        shares_chunk.push(within(block.as_bytes()));
        seen.extend_from_slice(block.as_bytes());
    }
    assert_eq!(seen, chunk);
    // The third block is most of the chunk, so it is not copied.
    assert_eq!(shares_chunk, [false, false, true]);
}
