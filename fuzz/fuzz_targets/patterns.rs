//! For any expressions and any text in any pieces: the output of the window equals the text masked with the `regex` crate, and at
//! any time the output is a prefix of that.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use regex::Regex;
use tower_sse_proxy::{
    Event,
    codec::Block,
    intercept::{
        Interceptor, MakeInterceptor, StreamEnd, StreamHead, Verdict,
        window::{Pattern, TextWindow, patterns},
    },
};

#[derive(Arbitrary, Debug)]
struct Input {
    expressions: Vec<Expression>,
    text: Vec<u8>,
    cuts: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Expression {
    Letter(u8),
    Any,
    Not(u8),
    Boundary(bool),
    Start,
    End,
    Both(Box<Expression>, Box<Expression>),
    Either(Box<Expression>, Box<Expression>),
    Repeated(Box<Expression>, u8, u8, bool),
    Many(Box<Expression>, bool),
}

/// A small alphabet, so that matches are frequent. Some letters have more than one byte.
const LETTERS: [char; 7] = ['a', 'b', 'c', ' ', '\n', '\u{e4}', '\u{65e5}'];

fn letter(n: u8) -> char {
    LETTERS[usize::from(n) % LETTERS.len()]
}

impl Expression {
    fn write(&self, out: &mut String, depth: usize) {
        if depth > 6 {
            return out.push('a');
        }
        let depth = depth + 1;
        match self {
            Expression::Letter(n) => out.push(letter(*n)),
            Expression::Any => out.push('.'),
            Expression::Not(n) => {
                out.push_str("[^");
                out.push(letter(*n));
                out.push(']');
            }
            Expression::Boundary(true) => out.push_str(r"(?-u:\b)"),
            Expression::Boundary(false) => out.push_str(r"(?-u:\B)"),
            Expression::Start => out.push('^'),
            Expression::End => out.push('$'),
            Expression::Both(one, other) => {
                one.write(out, depth);
                other.write(out, depth);
            }
            Expression::Either(one, other) => {
                out.push_str("(?:");
                one.write(out, depth);
                out.push('|');
                other.write(out, depth);
                out.push(')');
            }
            Expression::Repeated(inner, least, most, greedy) => {
                let least = least % 4;
                out.push_str("(?:");
                inner.write(out, depth);
                out.push_str(&format!("){{{least},{}}}", least + most % 4));
                out.push_str(if *greedy { "" } else { "?" });
            }
            Expression::Many(inner, greedy) => {
                out.push_str("(?:");
                inner.write(out, depth);
                out.push_str(if *greedy { ")*" } else { ")*?" });
            }
        }
    }
}

fn expected(text: &str, regexes: &[Regex]) -> String {
    let found = regexes.iter().enumerate();
    let found = found.flat_map(|(n, regex)| regex.find_iter(text).map(move |m| (m.range(), n)));
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|(range, n)| (range.start, *n));
    let (mut out, mut at) = (String::new(), 0);
    for (range, n) in found {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(&format!("<{n}>"));
        }
        at = at.max(range.end);
    }
    out + &text[at..]
}

/// An event with the text as a JSON string, so that line ends in it are escaped.
fn event(text: &str) -> Event {
    let escaped = text.replace('\n', "\\n");
    Event::new(format!("\"{escaped}\""))
}

fn read(verdict: Verdict, out: &mut String) {
    let blocks: Vec<Block> = match verdict {
        Verdict::Forward(block) => vec![block],
        Verdict::Release(blocks) => blocks,
        Verdict::Hold | Verdict::Drop => return,
        other => panic!("{other:?}"),
    };
    for block in blocks {
        let data = Event::from_block(block).unwrap().data().into_owned();
        let text = data.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
        out.push_str(&text.replace("\\n", "\n"));
    }
}

fuzz_target!(|input: Input| {
    let expressions = input.expressions.iter().take(3).map(|expression| {
        let mut out = String::new();
        expression.write(&mut out, 0);
        out
    });
    let expressions: Vec<_> = expressions.collect();
    let masked = expressions.iter().enumerate();
    let masked = masked.map(|(n, expression)| Pattern::regex(expression).mask(format!("<{n}>")));
    // `patterns` rejects expressions that match the empty text or no text.
    let Ok(judge) = patterns(masked) else { return };
    let regexes: Vec<_> = expressions.iter().map(|e| Regex::new(e).unwrap()).collect();

    let text: Vec<char> = input.text.iter().take(200).map(|n| letter(*n)).collect();
    let expected = expected(&text.iter().collect::<String>(), &regexes);

    let (request, _) = http::Request::new(()).into_parts();
    let (response, _) = http::Response::new(()).into_parts();
    let window = TextWindow::new(judge);
    let mut stream = window.open(&StreamHead::new(&request, &response)).unwrap();
    let mut out = String::new();
    let mut rest = &text[..];
    for cut in input
        .cuts
        .iter()
        .map(|cut| usize::from(cut % 8))
        .chain([usize::MAX])
    {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        read(
            stream.event(event(&piece.iter().collect::<String>())),
            &mut out,
        );
        assert!(
            expected.starts_with(&out),
            "{expressions:?}: {out:?} of {expected:?}"
        );
    }
    read(stream.end(StreamEnd::Complete), &mut out);
    assert_eq!(out, expected, "{expressions:?}");
});
