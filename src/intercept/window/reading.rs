//! Reading a text that comes in pieces, with a way back to the pieces.

use std::ops::Range;

use super::{
    decision::Mask,
    edit::{Edit, escaped},
};
use crate::intercept::unescape::Unescaped;

/// Reads a text in one way: with so many layers of escapes undone.
///
/// An escape, or a surrogate pair, may be cut anywhere and come in several pieces. Its character is part of the piece that
/// completes it.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The end of what has come, of which no character has been made yet.
    rest: String,
    layers: usize,
}

/// How a piece of a text is spelled in its place.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    /// The layers that were undone, from the outside in; those without escapes are left out.
    undone: Vec<Unescaped<'static>>,
    layers: usize,
    /// So many bytes of the text stand nowhere.
    nowhere: usize,
    /// So many bytes of what was read came with pieces before this one.
    before: usize,
    /// How long the text is, in bytes.
    read: usize,
    /// The beginning of a character that a later piece completes.
    unfinished: Range<usize>,
}

impl Reader {
    /// Reads on: some more of the text, which so many layers of escapes make of what stands in its place.
    pub(super) fn read(&mut self, source: &str, layers: usize) -> (String, Spelling) {
        let mut text = String::new();
        if layers != self.layers {
            // What is spelled in another way does not complete what came before.
            text = self.give_up();
            self.layers = layers;
        }
        let nowhere = text.len();
        if self.rest.is_empty() && (layers == 0 || !source.contains('\\')) {
            text.push_str(source);
            let spelling = Spelling {
                layers,
                nowhere,
                read: text.len(),
                ..Spelling::default()
            };
            return (text, spelling);
        }
        let before = self.rest.len();
        let mut all = std::mem::take(&mut self.rest);
        all.push_str(source);
        let (read, undone) = undo(&all, layers, |layer| layer.settled());
        text.push_str(&read);
        let end = undone
            .iter()
            .rev()
            .fold(read.len(), |at, layer| layer.start(at));
        all[end..].clone_into(&mut self.rest);
        let spelling = Spelling {
            undone,
            layers,
            nowhere,
            before,
            read: text.len(),
            unfinished: end.saturating_sub(before)..source.len(),
        };
        (text, spelling)
    }

    /// Reads a text that nothing follows on.
    pub(super) fn whole(source: &str, layers: usize) -> (String, Spelling) {
        let (text, undone) = undo(source, layers, |layer| layer.text().len());
        let spelling = Spelling {
            undone,
            layers,
            read: text.len(),
            ..Spelling::default()
        };
        (text, spelling)
    }

    /// What has come of a character that nothing completes.
    fn give_up(&mut self) -> String {
        let rest = std::mem::take(&mut self.rest);
        undo(&rest, self.layers, |layer| layer.text().len()).0
    }
}

/// Undoes so many layers of escapes, of each as much as `len` says.
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
    /// Whether a character begins behind the text that a later piece completes.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// What a mask of the text changes where it stands. The byte behind the text stands for a character that is
    /// [unfinished](Self::is_unfinished).
    pub(super) fn edit(&self, mask: Mask) -> Edit {
        let Mask { range, with } = mask;
        let text = self.nowhere..self.read;
        let within = range.start.clamp(text.start, text.end)..range.end.clamp(text.start, text.end);
        let within = within.start - self.nowhere..within.end - self.nowhere;
        let layers = self.undone.iter().rev();
        let source = layers.fold(within, |range, layer| layer.original(range));
        let mut source =
            source.start.saturating_sub(self.before)..source.end.saturating_sub(self.before);
        if self.is_unfinished() && range.end > self.read {
            source.end = self.unfinished.end;
            if range.start >= self.read {
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

    /// Reads pieces and masks a range of the whole; the text, and the pieces after that.
    fn masked(pieces: &[&str], layers: usize, secret: &str) -> (String, Vec<String>) {
        let mut reader = Reader::default();
        let mut text = String::new();
        let mut read = Vec::new();
        for piece in pieces {
            let (more, spelling) = reader.read(piece, layers);
            read.push((text.len()..text.len() + more.len(), spelling));
            text.push_str(&more);
        }
        let start = text.find(secret).unwrap();
        let end = start + secret.len();
        let pieces = pieces.iter().zip(read).map(|(piece, (here, spelling))| {
            let behind = here.end + usize::from(spelling.is_unfinished());
            let (from, to) = (start.max(here.start), end.min(behind));
            if from >= to {
                return (*piece).to_owned();
            }
            let edit = spelling.edit(Mask {
                range: from - here.start..to - here.start,
                with: String::new(),
            });
            let mut piece = (*piece).to_owned();
            piece.replace_range(edit.range, &edit.with);
            piece
        });
        let pieces = pieces.collect();
        (text, pieces)
    }

    #[test]
    fn a_character_that_is_cut_belongs_to_all_pieces_that_it_stands_in() {
        for (layers, pieces, text, left) in [
            (
                0,
                &[r"a\u0042", "B c"][..],
                r"a\u0042B c",
                &[r"a\u0042", " c"][..],
            ),
            (1, &[r"a\u0042 ", " c"], "aB  c", &["a ", " c"]),
            (1, &["a\\", "u", "00", "42c"], "aBc", &["a", "", "", "c"]),
            (1, &[r"a\\\u00", "42c"], "a\\Bc", &[r"a\\", "c"]),
            (2, &[r"\\u00", "42c"], "Bc", &["", "c"]),
            (2, &[r"a\u005cu00", "42", "c"], "aBc", &["a", "", "c"]),
        ] {
            let (read, pieces) = masked(pieces, layers, "B");
            assert_eq!(
                (read.as_str(), &pieces[..]),
                (
                    text,
                    &left.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]
                )
            );
        }
        let (text, pieces) = masked(&[r"a\ud83d", r"\ude00b"], 1, "\u{1f600}");
        assert_eq!(
            (text.as_str(), &pieces[..]),
            ("a\u{1f600}b", &["a".to_owned(), "b".to_owned()][..])
        );
    }

    #[test]
    fn what_completes_nothing_leaves_the_beginning_as_it_is() {
        let read = |pieces: &[(&str, usize)]| {
            let mut reader = Reader::default();
            let read = pieces
                .iter()
                .map(|(piece, layers)| reader.read(piece, *layers).0);
            read.collect::<Vec<_>>()
        };
        assert_eq!(read(&[(r"a\ud83d", 1), ("b", 1)]), ["a", "\u{fffd}b"]);
        assert_eq!(read(&[(r"a\ud83d", 1), ("b", 0)]), ["a", "\u{fffd}b"]);
        assert_eq!(read(&[(r"a\u00", 1), ("g", 1)]), ["a", "\\u00g"]);
        assert_eq!(read(&[(r"a\u00", 1), (r"\u0042", 1)]), ["a", "\\u00B"]);
        assert_eq!(Reader::whole(r"a\ud83d", 1).0, "a\u{fffd}");
        assert_eq!(Reader::whole(r"\\u0042\u00", 2).0, "B\\u00");
    }
}
