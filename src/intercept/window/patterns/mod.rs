//! A judge of patterns: phrases, regular expressions, card numbers and e-mail addresses.

mod cards;
mod machine;
mod regex;
mod scan;

use std::{error::Error, fmt, future::ready, sync::Arc};

use self::{
    cards::Cards,
    machine::{Machine, TABLE_LIMIT, Unfit},
    regex::Regex,
    scan::{Compiled, Scanner, Search},
};
use super::{
    decision::{Decision, TextSegment},
    judge::{DecisionFuture, Judge},
    masks::masks_of,
    scan::{Scan, StartScan},
};

/// A pattern, and the action on its matches. Compile patterns with [`patterns`].
///
/// Default: a match is replaced by `***`. [`mask`](Self::mask) sets another replacement, and [`block`](Self::block) ends the
/// stream instead.
#[derive(Clone)]
pub struct Pattern {
    kind: Kind,
    ignore_case: bool,
    /// The replacement of a match. `None`: a match blocks.
    mask: Option<Arc<str>>,
}

#[derive(Clone)]
enum Kind {
    Phrase(String),
    Regex(String),
    CardNumber,
    Email,
}

impl Pattern {
    /// Matches exactly this text, also within a word.
    pub fn phrase(text: impl Into<String>) -> Self {
        Self::new(Kind::Phrase(text.into()))
    }

    /// Matches a regular expression in the syntax of the [`regex`] crate, with its leftmost-first semantics.
    ///
    /// * A word boundary must be an ASCII one, `(?-u:\b)`. A Unicode word boundary, `\b`, is an error.
    /// * An expression that matches the empty text is an error, and so is one whose automaton needs more than 8 MiB. Large
    ///   counted repetitions of Unicode classes exceed it: `\w{3,100}`. The ASCII class `(?-u:\w)` does not.
    /// * A match of unlimited size (`<.*>`) is held while it may grow, up to
    ///   [`max_held_bytes`](super::TextWindow::max_held_bytes). Limit repetitions where you can.
    /// * `^` and `$` match at the ends of the text, not of an event.
    ///
    /// [`regex`]: https://docs.rs/regex/1/regex/#syntax
    pub fn regex(expression: impl Into<String>) -> Self {
        Self::new(Kind::Regex(expression.into()))
    }

    /// Matches card numbers: 13 to 19 digits with at most one space or hyphen between two digits, and a valid check digit
    /// (Luhn, ISO/IEC 7812-1).
    ///
    /// A card number does not begin or end inside a longer run of digits. Overlapping card numbers are all masked.
    pub fn card_number() -> Self {
        Self::new(Kind::CardNumber)
    }

    /// Matches e-mail addresses in ASCII: `local@domain`, with a local part of at most 64 characters that RFC 5322 allows
    /// without quotes, and a domain of at least two labels.
    ///
    /// Any word may begin an address, so the last word of a text is held until it ends.
    pub fn email() -> Self {
        Self::new(Kind::Email)
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            ignore_case: false,
            mask: Some("***".into()),
        }
    }

    /// Ignores case (Unicode simple case folding). Default: case-sensitive. No effect on card numbers and e-mail addresses.
    pub fn ignore_case(mut self) -> Self {
        self.ignore_case = true;
        self
    }

    /// Replaces each match by this text. Default: `***`.
    pub fn mask(mut self, with: impl Into<String>) -> Self {
        self.mask = Some(with.into().into());
        self
    }

    /// Ends the stream before the event in which a match begins. See [`Decision::Block`].
    pub fn block(mut self) -> Self {
        self.mask = None;
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

/// Shows the pattern and its replacement.
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
            .field("mask", &self.mask)
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
/// The judge finds the matches of the whole text, however events split it. Matches of one pattern are the leftmost ones that do not
/// overlap; only card numbers may overlap. Where matches of several patterns overlap, the mask of the first match replaces all of them.
///
/// The judge holds text from the first byte at which a match may be in progress, while that match may grow:
/// `alice@example.co` is held, because an `m` may follow.
///
/// A window with this judge has an [`overlap`](super::TextWindow::overlap) of 0 and no limit for
/// [`max_delay`](super::TextWindow::max_delay) unless they are set. The cost of a byte does not depend on the amount of held text.
///
/// Another judge can call [`Judge::judge`] of this one. It then scans the whole segment each time.
///
/// # Errors
/// A pattern that is not a valid regular expression, is too large, or matches the empty text or no text.
/// [`PatternError::index`] identifies the pattern.
pub fn patterns(patterns: impl IntoIterator<Item = Pattern>) -> Result<Patterns, PatternError> {
    let compile = |(index, pattern): (usize, Pattern)| {
        let machine = pattern
            .compile()
            .map_err(|fault| PatternError { index, fault })?;
        Ok(Compiled {
            machine,
            overlapping: matches!(pattern.kind, Kind::CardNumber),
            mask: pattern.mask,
        })
    };
    let compiled = patterns.into_iter().enumerate().map(compile);
    let search = Search::new(compiled.collect::<Result<_, _>>()?);
    Ok(Patterns {
        search: Arc::new(search),
    })
}

/// The [`Judge`] that [`patterns`] returns.
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
    fn judge(&self, segment: TextSegment) -> DecisionFuture {
        let mut scanner = Scanner::new(Arc::clone(&self.search));
        let mut matches = Vec::new();
        scanner.push(&segment.text, &mut matches);
        if segment.complete {
            scanner.finish(&mut matches);
        }
        let masks = masks_of(&matches);
        let decision = if matches.iter().any(|found| found.mask.is_none()) {
            Decision::Block
        } else if segment.complete {
            Decision::Mask(masks)
        } else {
            let from = scanner.undecided();
            Decision::Hold { from, masks }
        };
        Box::pin(ready(Ok(decision)))
    }

    fn incremental(&self) -> Option<StartScan> {
        let search = Arc::clone(&self.search);
        Some(StartScan(Arc::new(move || {
            Box::new(Scanner::new(Arc::clone(&search)))
        })))
    }
}

/// A pattern that cannot be compiled.
#[derive(Debug)]
pub struct PatternError {
    index: usize,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Invalid(Box<regex_automata::dfa::dense::BuildError>),
    Unfit(Unfit),
}

impl PatternError {
    /// The index of the pattern in the argument of [`patterns`], from 0.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern {}: ", self.index)?;
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
                "its automaton needs more than {} MiB: use smaller counts in {{m,n}}, or ASCII classes such as (?-u:\\w)",
                TABLE_LIMIT >> 20
            ),
            Fault::Unfit(Unfit::MatchesEmpty) => {
                f.write_str("it matches the empty text: a match must have at least one character")
            }
            Fault::Unfit(Unfit::MatchesNothing) => f.write_str("it cannot match any text"),
        }
    }
}

impl Error for PatternError {}
