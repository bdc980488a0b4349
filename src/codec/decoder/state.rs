//! The states of the decoder, and how it skips a block that is too large.

use memchr::memchr2;

use crate::codec::lines::line_end_len;

/// The position of the next byte in the grammar of WHATWG HTML 9.2.5.
///
/// Only `Start`, `Block` and the states after a CR are in the standard. The other states exist because the decoder limits the size
/// of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Before the first byte of the stream, or inside its BOM (9.2.5: `stream = [ bom ] *event`).
    Start,
    /// At the start of a block or inside one (9.2.5: `event = *( comment / field ) end-of-line`).
    Block,
    /// After a CR inside a block. An LF belongs to the same line end (9.2.5: `end-of-line = ( cr lf / cr / lf )`).
    InnerCr,
    /// After a CR that completed a block. The decoder has already returned the block, and an LF belongs to it (9.2.5:
    /// `end-of-line`).
    OuterCr,
    /// Inside a block that the decoder skips because it is too large.
    Discard {
        /// The block is one comment or `retry` line: it ends with this line, not with a blank line.
        one_line: bool,
        /// The current line is empty so far.
        blank: bool,
    },
    /// After a CR inside a block that the decoder skips. An LF belongs to the same line end (9.2.5: `end-of-line`).
    DiscardCr,
    /// After a CR that completed a skipped block. An LF belongs to the same line end (9.2.5: `end-of-line`).
    DiscardedCr,
    /// A block was too large, and the decoder has returned [`EventTooLarge`](crate::codec::EventTooLarge).
    Failed,
}

/// Skips one line of a block that is too large, or the part of the line that is in `rest`. `one_line` and `blank` are those of
/// [`State::Discard`]. Returns how many bytes of `rest` to skip, and the state after them.
pub(super) fn discard_line(rest: &[u8], one_line: bool, blank: bool) -> (usize, State) {
    let Some(end) = memchr2(b'\n', b'\r', rest) else {
        let blank = false;
        return (rest.len(), State::Discard { one_line, blank });
    };
    // A blank line ends the block (9.2.6). If one comment or `retry` line is the block, the block ends with it.
    let ends_block = one_line || (blank && end == 0);
    let taken = end + line_end_len(&rest[end..]);
    // The LF of a CRLF may be in the next chunk (9.2.5: `end-of-line`).
    let ends_in_cr = rest[taken - 1] == b'\r' && taken == rest.len();
    let next = match (ends_block, ends_in_cr) {
        (true, true) => State::DiscardedCr,
        (true, false) => State::Block,
        (false, true) => State::DiscardCr,
        (false, false) => State::Discard {
            one_line: false,
            blank: true,
        },
    };
    (taken, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discard_line_ends_at_a_blank_line_or_at_a_standalone_line() {
        let inside = |one_line, blank| State::Discard { one_line, blank };
        for (rest, one_line, blank, expected) in [
            // A part of a line.
            ("ab", false, false, (2, inside(false, false))),
            ("ab", true, true, (2, inside(true, false))),
            // A line that is not blank.
            ("ab\ncd", false, true, (3, inside(false, true))),
            ("\ncd", false, false, (1, inside(false, true))),
            ("ab\r\ncd", false, false, (4, inside(false, true))),
            ("ab\rcd", false, false, (3, inside(false, true))),
            ("ab\r", false, true, (3, State::DiscardCr)),
            // A blank line.
            ("\ncd", false, true, (1, State::Block)),
            ("\r\ncd", false, true, (2, State::Block)),
            ("\rcd", false, true, (1, State::Block)),
            ("\r", false, true, (1, State::DiscardedCr)),
            // A comment or `retry` line that is a block by itself.
            ("ab\ncd", true, false, (3, State::Block)),
            ("ab\r\n", true, false, (4, State::Block)),
            ("ab\r", true, false, (3, State::DiscardedCr)),
        ] {
            let got = discard_line(rest.as_bytes(), one_line, blank);
            assert_eq!(got, expected, "{rest:?} {one_line} {blank}");
        }
    }
}
