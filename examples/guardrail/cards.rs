//! Card numbers in a text.

use std::ops::Range;

/// The longest that is found: nineteen digits, and a blank or a dash between any two.
pub const LONGEST: usize = 19 + 18;

/// Where card numbers stand: 13 to 19 digits with the right check digit, single blanks or dashes between them or not, and
/// no digit before or behind.
pub fn find(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let number = number(bytes, at);
        let digits = bytes[number.clone()]
            .iter()
            .filter(|byte| byte.is_ascii_digit());
        let digits: Vec<u8> = digits.map(|byte| byte - b'0').collect();
        at = number.end;
        if (13..=19).contains(&digits.len()) && has_check_digit(&digits) {
            found.push(number);
        }
    }
    found
}

/// The digits from `start` on, as far as no more than one blank or dash is between any two.
fn number(bytes: &[u8], start: usize) -> Range<usize> {
    let mut end = start + 1;
    loop {
        match bytes[end..] {
            [b'0'..=b'9', ..] => end += 1,
            [b' ' | b'-', b'0'..=b'9', ..] => end += 2,
            _ => return start..end,
        }
    }
}

/// Luhn's formula (ISO/IEC 7812-1, annex B).
fn has_check_digit(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, &digit)| match (n % 2, digit) {
            (0, _) => u32::from(digit),
            (_, 5..) => u32::from(digit) * 2 - 9,
            _ => u32::from(digit) * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}
