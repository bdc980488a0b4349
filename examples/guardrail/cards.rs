//! Finds card numbers.

use std::ops::Range;

/// The size of the longest card number, in bytes: 19 digits, and something between each two.
pub const LONGEST: usize = 19 + 18;

/// Where there are 13 to 19 digits with at most one blank or dash between each two, and a check digit (Luhn) that fits.
///
/// A number does not begin or end within a run of digits: of a longer number, no part is a card number.
pub fn find(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let begins =
        |at: &usize| bytes[*at].is_ascii_digit() && (*at == 0 || !bytes[at - 1].is_ascii_digit());
    (0..bytes.len())
        .filter(begins)
        .filter_map(|start| Some(start..longest(bytes, start)?))
}

/// Where the longest card number that begins here ends.
fn longest(text: &[u8], start: usize) -> Option<usize> {
    let (mut digits, mut end) = (Vec::with_capacity(19), None);
    let mut at = start;
    while digits.len() < 19 {
        match text.get(at) {
            Some(digit @ b'0'..=b'9') => digits.push(digit - b'0'),
            _ => break,
        }
        let next = text.get(at + 1);
        if !next.is_some_and(u8::is_ascii_digit) && digits.len() >= 13 && is_checked(&digits) {
            end = Some(at + 1);
        }
        at += if matches!(next, Some(b' ' | b'-')) {
            2
        } else {
            1
        };
    }
    end
}

/// Luhn's sum: every other digit from the right, the last but one first, counts twice.
fn is_checked(digits: &[u8]) -> bool {
    let doubled = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9];
    let sum: usize = digits
        .iter()
        .rev()
        .zip([false, true].into_iter().cycle())
        .map(|(&digit, twice)| {
            if twice {
                doubled[usize::from(digit)]
            } else {
                usize::from(digit)
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::find;

    fn found(text: &str) -> Vec<&str> {
        find(text).map(|range| &text[range]).collect()
    }

    #[test]
    fn a_card_number_is_found_in_any_of_its_spellings() {
        for card in [
            "4222222222222",
            "378282246310005",
            "3782 822463 10005",
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1",
            "6304000000000000000",
        ] {
            assert_eq!(found(card), [card]);
            assert_eq!(found(&format!("no{card}.")), [card]);
            assert_eq!(found(&format!("\u{e4} {card} or {card}")), [card, card]);
        }
    }

    #[test]
    fn a_number_beside_a_card_number_does_not_hide_it() {
        assert_eq!(found("2 4111 1111 1111 1111 7"), ["4111 1111 1111 1111"]);
    }

    #[test]
    fn what_is_no_card_number_is_not_found() {
        for other in [
            "",
            "4111 1111 1111 1112",
            "4111  1111 1111 1111",
            "4111.1111.1111.1111",
            "411111111117",
            "94111111111111111",
            "41111111111111119",
            "41111111111111114111111111111111",
        ] {
            assert!(found(other).is_empty(), "{other}");
        }
    }
}
