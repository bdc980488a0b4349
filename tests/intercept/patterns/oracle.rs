//! The oracle: masks a complete text with the `regex` crate, and finds card numbers digit by digit.

use std::ops::Range;

use regex::Regex;

/// Expressions with their masks.
pub struct Oracle<'a>(Vec<(Regex, &'a str)>);

impl<'a> Oracle<'a> {
    pub fn regexes(regexes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let regexes = regexes.into_iter();
        Self(
            regexes
                .map(|(regex, mask)| (Regex::new(regex).unwrap(), mask))
                .collect(),
        )
    }

    pub fn masked(&self, text: &str) -> String {
        let found = self.0.iter().flat_map(|(regex, mask)| {
            let found = regex.find_iter(text);
            found.map(move |found| (found.range(), *mask))
        });
        merged(text, found.collect())
    }
}

/// Masks these ranges of the text. Overlapping ranges are merged; the mask of the range that begins first applies.
pub fn merged(text: &str, mut found: Vec<(Range<usize>, &str)>) -> String {
    found.sort_by_key(|(range, _)| range.start);
    let mut out = String::new();
    let mut at = 0;
    for (range, mask) in found {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(mask);
            at = range.end;
        } else {
            at = at.max(range.end);
        }
    }
    out + &text[at..]
}

/// The ranges of card numbers: the longest one from each start.
pub fn cards(text: &str) -> impl Iterator<Item = Range<usize>> {
    let digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let starts = (0..text.len()).filter(move |&at| digit(at) && (at == 0 || !digit(at - 1)));
    starts.filter_map(move |start| {
        let ends = (start + 13..=text.len().min(start + 37)).rev();
        let mut ends = ends.filter(|&end| text.is_char_boundary(end) && !digit(end));
        Some(start..ends.find(|&end| is_card(&text[start..end]))?)
    })
}

pub fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let apart = text.split([' ', '-']);
    let is_number = apart
        .clone()
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, digit)| {
            if n % 2 == 1 {
                digit * 2 / 10 + digit * 2 % 10
            } else {
                *digit
            }
        })
        .sum();
    is_number && (13..=19).contains(&digits.len()) && sum.is_multiple_of(10)
}
