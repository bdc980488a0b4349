//! Regular expressions as automata.

use std::error::Error;

use regex_automata::{
    Anchored,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start, syntax},
};

use super::machine::{Automaton, TABLE_LIMIT};

/// An anchored automaton: a scan runs it from each byte at which a match may start.
pub(super) struct Regex {
    dfa: dense::DFA<Vec<u32>>,
}

impl Regex {
    pub(super) fn new(pattern: &str, ignore_case: bool) -> Result<Self, Box<dense::BuildError>> {
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(TABLE_LIMIT))
            .determinize_size_limit(Some(2 * TABLE_LIMIT));
        let nfa = thompson::Config::new().nfa_size_limit(Some(TABLE_LIMIT));
        let dfa = dense::Builder::new()
            .configure(config)
            .thompson(nfa)
            .syntax(syntax::Config::new().case_insensitive(ignore_case))
            .build(pattern)?;
        Ok(Self { dfa })
    }
}

/// Whether the automaton or its source exceeded the memory limit.
pub(super) fn is_too_big(error: &dense::BuildError) -> bool {
    let nfa = error.source();
    let nfa = nfa.and_then(|error| error.downcast_ref::<thompson::BuildError>());
    error.is_size_limit_exceeded() || nfa.is_some_and(|error| error.size_limit().is_some())
}

impl Automaton for Regex {
    type State = StateID;

    fn start(&self, before: Option<u8>) -> Option<StateID> {
        let config = start::Config::new()
            .anchored(Anchored::Yes)
            .look_behind(before);
        self.dfa.start_state(&config).ok()
    }

    fn next(&self, state: StateID, byte: u8) -> StateID {
        self.dfa.next_state(state, byte)
    }

    fn is_match(&self, state: StateID) -> bool {
        self.dfa.is_match_state(state)
    }

    fn is_match_at_end(&self, state: StateID) -> bool {
        self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }

    fn classes(&self) -> [u8; 256] {
        let classes = self.dfa.byte_classes();
        std::array::from_fn(|byte| classes.get(byte as u8))
    }
}

/// A regular expression that matches exactly this text.
pub(super) fn literal(text: &str) -> String {
    text.chars()
        .map(|c| format!("\\x{{{:x}}}", u32::from(c)))
        .collect()
}

/// A regular expression for e-mail addresses in ASCII.
///
/// The local part is a dot-atom of RFC 5322 without the rules for dots. It begins with a letter, digit or underscore, so that
/// quotes and asterisks around an address are not part of it. The domain is one of RFC 1123 with at least two labels, and the
/// last label begins with a letter.
pub(super) const EMAIL: &str = r"[0-9A-Za-z_][0-9A-Za-z.!#$%&'*+/=?^_`{|}~-]{0,63}@(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.)+[A-Za-z][0-9A-Za-z-]{0,61}[0-9A-Za-z]";
