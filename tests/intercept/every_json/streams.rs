//! Generates streams from arbitrary bytes: any JSON in any spelling, with parts of the secret anywhere in it.

use super::reader::{Units, units};

/// The secret that windows must find. Its beginning occurs again near its end, and it has a character of two UTF-16 units.
pub const SECRET: &str = "ab\u{1f511}ab-1";

/// Bytes that decide the choices. After the last byte, every choice is the first alternative.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    fn of(&mut self, n: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first) % n
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.of(all.len())]
    }
}

/// Generates the data of a stream's events.
pub fn stream(choices: &mut Choices<'_>) -> Vec<String> {
    // Some clients join plain text and JSON strings, so a stream has only one of them.
    let is_plain = choices.of(2) == 0;
    let mut data = Vec::new();
    while !choices.0.is_empty() && data.len() < 24 {
        match choices.of(8) {
            0 => {
                let tree = tree(choices, 0);
                data.push(["", "", "\u{feff}", " \t"][choices.of(4)].to_owned() + &tree);
            }
            1 => {
                let text = word(choices);
                let text = literal(choices, &text);
                data.push(format!("{{\"n\":NaN,\"s\":{text}}}"));
            }
            2 => {
                let text = word(choices);
                data.push(if is_plain {
                    String::from_utf16_lossy(&text).replace(['\n', '\r', '\u{feff}'], " ")
                } else {
                    literal(choices, &text)
                });
            }
            _ => {
                // A text across events, possibly with another event in the middle.
                let family = choices.of(8);
                let key = choices.of(2);
                let mut rest = words(choices);
                while !rest.is_empty() && data.len() < 24 {
                    let cut = (1 + choices.of(6)).min(rest.len());
                    let after = rest.split_off(cut);
                    data.push(delta(choices, family, key, &rest));
                    rest = after;
                    if choices.of(6) == 0 {
                        let other = word(choices);
                        data.push(delta(choices, 0, 1 - key, &other));
                    }
                }
            }
        }
    }
    data
}

/// Generates the data of an event with the next piece of a text.
fn delta(choices: &mut Choices<'_>, family: usize, key: usize, text: &[u16]) -> String {
    let text = literal(choices, text);
    let i = choices.one_of(&[["0", "0.0", "-0", "0e0"], ["1", "1.0", "10e-1", "1E0"]][key]);
    let lone = choices.one_of(&["", "", "\"\\ud800\":0,", "\"\\udc00\\ud800\":[],"]);
    match family {
        0 => format!(
            "{{{lone}\"choices\":[{{\"index\":{i},\"delta\":{{{lone}\"content\":{text}}}}}]}}"
        ),
        1 => format!(
            "{{\"choices\":[{{{lone}\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{i},\"function\":{{\"arguments\":{text}}}}}]}}}}]}}"
        ),
        2 => format!(
            "{{{lone}\"type\":\"response.output_text.delta\",\"output_index\":{i},\"delta\":{text}}}"
        ),
        3 => format!(
            "{{\"type\":\"response.output_text.delta\",\"item_id\":\"m{key}\",\"output_index\":{},\"delta\":{text}}}",
            choices.of(3)
        ),
        4 => format!(
            "{{\"type\":\"content_block_delta\",\"index\":{i},{lone}\"delta\":{{\"type\":\"input_json_delta\",\"partial_json\":{text}}}}}"
        ),
        5 => format!(
            "{{\"candidates\":[{{{lone}\"content\":{{\"parts\":[{{\"text\":{text}}}]}},\"index\":{i}}}]}}"
        ),
        6 => format!(
            "{{\"choices\":[{{\"index\":{i},\"delta\":{{}},\"logprobs\":{{\"content\":[{{{lone}\"token\":{text},\"logprob\":-1}}]}}}}]}}"
        ),
        _ => format!(
            "{{\"choices\":[{{\"index\":{i},\"text\":{text},\"finish_reason\":null{}}}]}}",
            ["", ",\"x\":[]"][choices.of(2)]
        ),
    }
}

/// Generates any JSON value.
fn tree(choices: &mut Choices<'_>, depth: usize) -> String {
    match choices.of(if depth > 5 { 6 } else { 10 }) {
        0..4 => {
            let text = word(choices);
            literal(choices, &text)
        }
        4 => choices
            .one_of(&[
                "null",
                "true",
                "-1.5e3",
                "1e400",
                "12345678901234567890",
                "{}",
                "[]",
            ])
            .to_owned(),
        5 => {
            // JSON inside a string.
            let inside = words(choices);
            let inside = literal(choices, &inside);
            let inside = choices
                .one_of(&["%", "{\"q\":%}", "[1, %", "so % it is"])
                .replace('%', &inside);
            literal(choices, &units(&inside))
        }
        6 | 7 => {
            let elements: Vec<_> = (0..1 + choices.of(3))
                .map(|_| tree(choices, depth + 1))
                .collect();
            format!("[{}]", elements.join(choices.one_of(&[",", " , "])))
        }
        _ => {
            let names = [
                "logprobs",
                "logprobsResult",
                "id",
                "content",
                "choices",
                "delta",
                "a",
                "text",
                "",
                "\\ud800",
                "\\udc00x",
                "token",
            ];
            let mut members: Vec<(&str, String)> = Vec::new();
            for _ in 0..1 + choices.of(3) {
                let name = choices.one_of(&names);
                if members.iter().all(|(other, _)| *other != name) {
                    members.push((name, tree(choices, depth + 1)));
                }
            }
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| format!("\"{name}\": {value}"))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

/// Generates a few letters, or a part of the secret.
fn word(choices: &mut Choices<'_>) -> Units {
    let letters = [
        "ab", "a", "b", "-1", "ab-1", "x", "\"", "\\", "/", "u0061", "\u{e9}", "\n", "",
    ];
    match choices.of(20) {
        0 => units(SECRET),
        1 => units(SECRET)[..3].to_vec(),
        2 => units(SECRET)[3..].to_vec(),
        3 => units("\u{1f511}"),
        4 => units("\\\\u0061b"),
        n => units(letters[n % letters.len()]),
    }
}

fn words(choices: &mut Choices<'_>) -> Units {
    let mut words = Vec::new();
    for _ in 0..1 + choices.of(4) {
        let word = word(choices);
        // Some words are escaped, as in JSON inside a string.
        if choices.of(4) == 0 {
            let literal = literal(choices, &word);
            words.extend(units(&literal[1..literal.len() - 1]));
        } else {
            words.extend(word);
        }
    }
    words
}

/// Generates a JSON string of this text, each character in one of its spellings.
fn literal(choices: &mut Choices<'_>, text: &[u16]) -> String {
    let mut out = String::from("\"");
    let style = choices.of(3);
    let mut at = 0;
    while at < text.len() {
        let is_escaped = style == 1 || style == 2 && choices.of(2) == 0;
        let unit = text[at];
        let char = char::decode_utf16(text[at..].iter().take(2).copied()).next();
        match char {
            Some(Ok(c)) if !is_escaped => {
                match c {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '/' if style == 2 => out.push_str("\\/"),
                    _ => out.push(c),
                }
                at += c.len_utf16();
            }
            _ => {
                let hex = format!("{unit:04x}");
                out.push_str("\\u");
                out.push_str(&if choices.of(2) == 0 {
                    hex
                } else {
                    hex.to_uppercase()
                });
                at += 1;
            }
        }
    }
    out.push('"');
    out
}
