//! Undoes the escapes of a text that several events carry, and maps ranges of the text back to these events.

use std::ops::Range;

use super::{
    decision::Mask,
    edit::{Edit, escaped},
};
use crate::intercept::unescape::Unescaped;

/// Reads a text with a fixed number of escape layers undone.
///
/// An escape or a surrogate pair may be split over several events at any byte. Its character belongs to the event that
/// completes it.
#[derive(Debug, Default)]
pub(super) struct TextReader {
    /// The end of the last source: the beginning of an escape that is not complete.
    carry: String,
    layers: usize,
}

/// How the source of one event spells its part of a text.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    /// The layers that were undone, from the outermost in. Layers without escapes are left out.
    undone: Vec<Unescaped<'static>>,
    layers: usize,
    /// The number of bytes at the beginning of the text that have no source in this event.
    without_source: usize,
    /// The number of bytes that were read here but belong to the source of earlier events.
    carried: usize,
    /// The length of the text, in bytes.
    text_len: usize,
    /// The range of the source that begins a character which a later event completes.
    unfinished: Range<usize>,
}

impl TextReader {
    /// Reads the source of the next event, which has this number of escape layers.
    pub(super) fn read(&mut self, source: &str, layers: usize) -> (String, Spelling) {
        let mut text = String::new();
        if layers != self.layers {
            // A source with another number of layers cannot complete the carried escape.
            text = self.flush();
            self.layers = layers;
        }
        let without_source = text.len();
        if self.carry.is_empty() && (layers == 0 || !source.contains('\\')) {
            text.push_str(source);
            let spelling = Spelling {
                layers,
                without_source,
                text_len: text.len(),
                ..Spelling::default()
            };
            return (text, spelling);
        }
        let carried = self.carry.len();
        let mut all = std::mem::take(&mut self.carry);
        all.push_str(source);
        let (read, undone) = undo(&all, layers, |layer| layer.settled());
        text.push_str(&read);
        let end = undone
            .iter()
            .rev()
            .fold(read.len(), |at, layer| layer.start(at));
        all[end..].clone_into(&mut self.carry);
        let spelling = Spelling {
            undone,
            layers,
            without_source,
            carried,
            text_len: text.len(),
            unfinished: end.saturating_sub(carried)..source.len(),
        };
        (text, spelling)
    }

    /// Reads a text that no later event continues.
    pub(super) fn whole(source: &str, layers: usize) -> (String, Spelling) {
        let (text, undone) = undo(source, layers, |layer| layer.text().len());
        let spelling = Spelling {
            undone,
            layers,
            text_len: text.len(),
            ..Spelling::default()
        };
        (text, spelling)
    }

    /// Returns the text of the carried bytes, which no later source completes.
    fn flush(&mut self) -> String {
        let carry = std::mem::take(&mut self.carry);
        undo(&carry, self.layers, |layer| layer.text().len()).0
    }
}

/// Undoes this number of escape layers. `len` returns how many bytes of each layer count.
fn undo(
    source: &str,
    layers: usize,
    len: impl Fn(&Unescaped<'_>) -> usize,
) -> (String, Vec<Unescaped<'static>>) {
    let mut text = source.to_owned();
    let mut undone = Vec::new();
    for layer in 1..=layers {
        let read = if layer < layers {
            Unescaped::outer(&text)
        } else {
            Unescaped::new(&text)
        };
        let len = len(&read);
        match read.detached() {
            Some(read) => {
                read.text()[..len].clone_into(&mut text);
                undone.push(read);
            }
            None => text.truncate(len),
        }
    }
    (text, undone)
}

impl Spelling {
    /// Whether the source ends in a character that a later event completes.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Converts a mask on the text to an edit of its source. The byte after the end of the text stands for the
    /// [unfinished](Self::is_unfinished) character.
    pub(super) fn edit(&self, mask: Mask) -> Edit {
        let Mask { range, with } = mask;
        let text = self.without_source..self.text_len;
        let within = range.start.clamp(text.start, text.end)..range.end.clamp(text.start, text.end);
        let within = within.start - self.without_source..within.end - self.without_source;
        let layers = self.undone.iter().rev();
        let source = layers.fold(within, |range, layer| layer.original(range));
        let mut source =
            source.start.saturating_sub(self.carried)..source.end.saturating_sub(self.carried);
        if self.is_unfinished() && range.end > self.text_len {
            source.end = self.unfinished.end;
            if range.start >= self.text_len {
                source.start = self.unfinished.start;
            }
        }
        let with = (0..self.layers).fold(with, |with, _| escaped(&with));
        Edit {
            range: source,
            with,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads sources and masks the secret in their text. Returns the text, and the edited sources.
    fn masked(sources: &[&str], layers: usize, secret: &str) -> (String, Vec<String>) {
        let mut reader = TextReader::default();
        let mut text = String::new();
        let mut read = Vec::new();
        for source in sources {
            let (more, spelling) = reader.read(source, layers);
            read.push((text.len()..text.len() + more.len(), spelling));
            text.push_str(&more);
        }
        let start = text.find(secret).unwrap();
        let end = start + secret.len();
        let sources = sources.iter().zip(read).map(|(source, (here, spelling))| {
            let behind = here.end + usize::from(spelling.is_unfinished());
            let (from, to) = (start.max(here.start), end.min(behind));
            if from >= to {
                return (*source).to_owned();
            }
            let edit = spelling.edit(Mask {
                range: from - here.start..to - here.start,
                with: String::new(),
            });
            let mut source = (*source).to_owned();
            source.replace_range(edit.range, &edit.with);
            source
        });
        let sources = sources.collect();
        (text, sources)
    }

    #[test]
    fn mask_on_a_split_escape_edits_every_source_of_it() {
        for (layers, sources, text, left) in [
            (
                0,
                &[r"a\u0042", "B c"][..],
                r"a\u0042B c",
                &[r"a\u0042", " c"][..],
            ),
            (1, &[r"a\u0042 ", " c"], "aB  c", &["a ", " c"]),
            (1, &["a\\", "u", "00", "42c"], "aBc", &["a", "", "", "c"]),
            (1, &[r"a\\\u00", "42c"], "a\\Bc", &[r"a\\", "c"]),
            // The text that is masked ends before the escape.
            (1, &[r"aB\u00", "43c"], "aBCc", &[r"a\u00", "43c"]),
            (2, &[r"\\u00", "42c"], "Bc", &["", "c"]),
            (2, &[r"a\u005cu00", "42", "c"], "aBc", &["a", "", "c"]),
        ] {
            let (read, sources) = masked(sources, layers, "B");
            assert_eq!(
                (read.as_str(), &sources[..]),
                (
                    text,
                    &left.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]
                )
            );
        }
        let (text, sources) = masked(&[r"a\ud83d", r"\ude00b"], 1, "\u{1f600}");
        assert_eq!(
            (text.as_str(), &sources[..]),
            ("a\u{1f600}b", &["a".to_owned(), "b".to_owned()][..])
        );
    }

    #[test]
    fn incomplete_escape_is_text_when_the_next_source_does_not_complete_it() {
        let read = |sources: &[(&str, usize)]| {
            let mut reader = TextReader::default();
            let read = sources
                .iter()
                .map(|(source, layers)| reader.read(source, *layers).0);
            read.collect::<Vec<_>>()
        };
        assert_eq!(read(&[(r"a\ud83d", 1), ("b", 1)]), ["a", "\u{fffd}b"]);
        assert_eq!(read(&[(r"a\ud83d", 1), ("b", 0)]), ["a", "\u{fffd}b"]);
        assert_eq!(read(&[(r"a\u00", 1), ("g", 1)]), ["a", "\\u00g"]);
        assert_eq!(read(&[(r"a\u00", 1), (r"\u0042", 1)]), ["a", "\\u00B"]);
        assert_eq!(TextReader::whole(r"a\ud83d", 1).0, "a\u{fffd}");
        assert_eq!(TextReader::whole(r"\\u0042\u00", 2).0, "B\\u00");
    }

    #[test]
    fn replacement_is_escaped_once_for_each_layer_of_its_source() {
        let edit = |(text, spelling): (String, Spelling)| {
            let edit = spelling.edit(Mask {
                range: text.len() - 1..text.len(),
                with: "\"".to_owned(),
            });
            (edit.range, edit.with)
        };
        for (source, range) in [("aB", 1..2), (r"\u0061B", 6..7), (r"a\u0042", 1..7)] {
            for (layers, with) in [(0, r#"""#), (1, r#"\""#), (2, r#"\\\""#)] {
                let expected = match layers {
                    0 => source.len() - 1..source.len(),
                    _ => range.clone(),
                };
                let expected = (expected, with.to_owned());
                let read = TextReader::default().read(source, layers);
                assert_eq!(edit(read), expected, "{source}, {layers} layers");
                let read = TextReader::whole(source, layers);
                assert_eq!(edit(read), expected, "{source}, {layers} layers");
            }
        }
    }

    #[test]
    fn mask_after_text_without_source_edits_the_source_of_its_own_text() {
        let mut reader = TextReader::default();
        reader.read(r"a\ud83d", 1);
        let (text, spelling) = reader.read("Bc", 0);
        assert_eq!(text, "\u{fffd}Bc");
        for (masked, range) in [("B", 0..1), ("c", 1..2), ("\u{fffd}B", 0..1)] {
            let start = text.find(masked).unwrap();
            let edit = spelling.edit(Mask {
                range: start..start + masked.len(),
                with: String::new(),
            });
            assert_eq!(edit.range, range, "{masked}");
        }
    }
}
