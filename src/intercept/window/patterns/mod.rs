//! Patterns as a judge: phrases, regular expressions, card numbers and e-mail addresses.

mod cards;
mod machine;
mod regex;
mod scan;

use std::{error::Error, fmt, sync::Arc};

use self::{
    cards::Cards,
    machine::{Machine, TABLE_LIMIT, Unfit},
    regex::Regex,
    scan::{Compiled, Scanner, Search},
};
use super::{
    decision::{Decision, TextSegment},
    judge::{Judge, Ruling},
    masks::masks,
    scan::{Incremental, Scan},
};

/// Something to look for in a text, and what to do where it is found.
///
/// A match is masked with `***` unless [`mask`](Self::mask) or [`block`](Self::block) says something else.
#[derive(Clone)]
pub struct Pattern {
    kind: Kind,
    ignore_case: bool,
    with: Option<Arc<str>>,
}

#[derive(Clone)]
enum Kind {
    Phrase(String),
    Regex(String),
    CardNumber,
    Email,
}

impl Pattern {
    /// This text, letter by letter, anywhere: also within a word.
    pub fn phrase(text: impl Into<String>) -> Self {
        Self::new(Kind::Phrase(text.into()))
    }

    /// A regular expression in the syntax of the [`regex`] crate, with its leftmost-first matches.
    ///
    /// * Word boundaries have to be those of ASCII, `(?-u:\b)`. A Unicode one (`\b`) is an error.
    /// * An expression that matches the empty text is an error, and so is one that needs more than 8 MiB as an automaton.
    ///   Large counted repetitions of Unicode classes do: `\w{3,100}`. With `(?-u:\w)` they are small.
    /// * A match without a bound on its size (`<.*>`) is held for as long as it may go on, up to
    ///   [`max_bytes`](super::TextWindow::max_held_bytes). Give repetitions a bound where you can.
    /// * `^` and `$` are the ends of the text, not of an event.
    ///
    /// [`regex`]: https://docs.rs/regex/1/regex/#syntax
    pub fn regex(expression: impl Into<String>) -> Self {
        Self::new(Kind::Regex(expression.into()))
    }

    /// A card number: 13 to 19 digits with at most one blank or dash between each two, and a check digit that fits (Luhn,
    /// ISO/IEC 7812-1).
    ///
    /// A card number does not begin or end within a longer run of digits. Where several overlap, all of them are masked.
    pub fn card_number() -> Self {
        Self::new(Kind::CardNumber)
    }

    /// An e-mail address in ASCII: `local@domain`, with a local part of at most 64 letters, digits and other characters
    /// that RFC 5322 allows without quotes, and a domain of at least two labels.
    ///
    /// Every word may be the beginning of an address, so a text is held to the end of its last word.
    pub fn email() -> Self {
        Self::new(Kind::Email)
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            ignore_case: false,
            with: Some("***".into()),
        }
    }

    /// Matches letters of either case (Unicode's simple case folding). Card numbers and e-mail addresses have no case.
    pub fn ignore_case(mut self) -> Self {
        self.ignore_case = true;
        self
    }

    /// Replaces each match by this text.
    pub fn mask(mut self, with: impl Into<String>) -> Self {
        self.with = Some(with.into().into());
        self
    }

    /// Ends the stream at a match, before its first byte is sent. See [`Decision::Block`].
    pub fn block(mut self) -> Self {
        self.with = None;
        self
    }

    fn compile(&self) -> Result<Machine, Fault> {
        let expression = match &self.kind {
            Kind::Phrase(text) => regex::literal(text),
            Kind::Regex(expression) => expression.clone(),
            Kind::Email => regex::EMAIL.to_owned(),
            Kind::CardNumber => return Machine::new(&Cards).map_err(Fault::Unfit),
        };
        let regex = Regex::new(&expression, self.ignore_case).map_err(|error| {
            if regex::is_too_big(&error) {
                Fault::Unfit(Unfit::TooBig)
            } else {
                Fault::Invalid(error)
            }
        })?;
        Machine::new(&regex).map_err(Fault::Unfit)
    }
}

/// Shows the pattern and what is done, as its author wrote them.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = match &self.kind {
            Kind::Phrase(text) => {
                let mut shown = f.debug_struct("Phrase");
                shown.field("text", text);
                shown
            }
            Kind::Regex(expression) => {
                let mut shown = f.debug_struct("Regex");
                shown.field("expression", expression);
                shown
            }
            Kind::CardNumber => f.debug_struct("CardNumber"),
            Kind::Email => f.debug_struct("Email"),
        };
        shown
            .field("ignore_case", &self.ignore_case)
            .field("mask", &self.with)
            .finish()
    }
}

/// Compiles patterns into a judge for a [`TextWindow`](super::TextWindow).
///
/// ```
/// use tower_sse_proxy::{SseProxyLayer, intercept::window::{Pattern, TextWindow, patterns}};
///
/// let guard = TextWindow::new(patterns([
///     Pattern::phrase("project nightingale").ignore_case().block(),
///     Pattern::card_number().mask("[card]"),
///     Pattern::email().mask("[e-mail]"),
///     Pattern::regex(r"sk-[A-Za-z0-9]{20,}").mask("[key]"),
/// ])?);
/// let layer = SseProxyLayer::default().intercept(guard);
/// # Ok::<_, tower_sse_proxy::intercept::window::PatternError>(())
/// ```
///
/// The judge masks or blocks every match of each pattern, as if it had the whole text: matches of one pattern are the
/// leftmost ones that do not overlap (card numbers may), and where matches of several patterns overlap, the mask of the
/// first one stands for all of them. It holds a text only from the first byte at which a match may be in progress, and
/// for as long as that match may still grow: `alice@example.co` waits for an `m`.
///
/// A window with this judge has no [`overlap`](super::TextWindow::overlap) and no [`time`](super::TextWindow::max_delay) bound unless
/// they are set. The cost of a byte does not depend on how much is held.
///
/// The judge can also be asked by another one, as [`Judge::judge`]: it then reads the passage anew each time.
///
/// # Errors
/// A pattern that is not a valid regular expression, is too big, or matches the empty text or nothing at all. The error
/// names the pattern by its number.
pub fn patterns(patterns: impl IntoIterator<Item = Pattern>) -> Result<Patterns, PatternError> {
    let compile = |(number, pattern): (usize, Pattern)| {
        let machine = pattern
            .compile()
            .map_err(|fault| PatternError { number, fault })?;
        Ok(Compiled {
            machine,
            overlapping: matches!(pattern.kind, Kind::CardNumber),
            with: pattern.with,
        })
    };
    let compiled = patterns.into_iter().enumerate().map(compile);
    let search = Search::new(compiled.collect::<Result<_, _>>()?);
    Ok(Patterns {
        search: Arc::new(search),
    })
}

/// A judge that looks for [`patterns`].
#[derive(Clone)]
pub struct Patterns {
    search: Arc<Search>,
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patterns")
            .field("count", &self.search.patterns.len())
            .finish_non_exhaustive()
    }
}

impl Judge for Patterns {
    fn judge(&self, passage: TextSegment) -> Ruling {
        let mut scanner = Scanner::new(Arc::clone(&self.search));
        let mut found = Vec::new();
        scanner.push(&passage.text, &mut found);
        if passage.complete {
            scanner.finish(&mut found);
        }
        if found.iter().any(|found| found.with.is_none()) {
            return Ruling::Now(Decision::Block);
        }
        let masks = masks(&found, 0);
        Ruling::Now(if passage.complete {
            Decision::Mask(masks)
        } else {
            let from = scanner.undecided();
            Decision::Hold { from, masks }
        })
    }

    fn incremental(&self) -> Option<Incremental> {
        let search = Arc::clone(&self.search);
        Some(Incremental(Arc::new(move || {
            Box::new(Scanner::new(Arc::clone(&search)))
        })))
    }
}

/// A pattern that cannot be looked for.
#[derive(Debug)]
pub struct PatternError {
    number: usize,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Invalid(Box<regex_automata::dfa::dense::BuildError>),
    Unfit(Unfit),
}

impl PatternError {
    /// The number of the pattern among those that were given, from 0.
    pub fn index(&self) -> usize {
        self.number
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern {}: ", self.number)?;
        match &self.fault {
            Fault::Invalid(error) => {
                let mut cause: &dyn Error = error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                let cause = cause.to_string();
                if cause.contains("Unicode word boundaries") {
                    f.write_str(r"a Unicode word boundary is not supported: write (?-u:\b) for an ASCII one")
                } else {
                    f.write_str(&cause)
                }
            }
            Fault::Unfit(Unfit::TooBig) => write!(
                f,
                "needs more than {} MiB as an automaton: use smaller counts in {{m,n}}, or ASCII classes such as (?-u:\\w)",
                TABLE_LIMIT >> 20
            ),
            Fault::Unfit(Unfit::MatchesEmpty) => {
                f.write_str("matches the empty text: a match must have at least one character")
            }
            Fault::Unfit(Unfit::MatchesNothing) => f.write_str("cannot match any text"),
        }
    }
}

impl Error for PatternError {}
