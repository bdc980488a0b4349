//! Finite automata as tables.

use std::{collections::HashMap, hash::Hash};

/// The state from which no match is reachable.
const DEAD: u32 = 0;

/// The maximum size of a transition table, in bytes.
pub(super) const TABLE_LIMIT: usize = 8 << 20;

/// A deterministic automaton that runs from a fixed start of a match.
///
/// It has its own transition table instead of that of the regex library: a scan needs to know for each state whether a match
/// is possible, certain, or can grow. The constructor computes that once.
pub(super) struct Machine {
    classes: [u8; 256],
    stride: usize,
    next: Vec<u32>,
    states: Vec<State>,
    /// The start states by the byte before the start. The last entry is for the beginning of the text.
    starts: Vec<u32>,
}

/// The properties of a state, which a byte has led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// A match ends before the byte that led here: the end of a match may depend on the byte after it.
    pub(super) matched: bool,
    /// A match ends after the byte that led here, whatever follows.
    pub(super) certain: bool,
    /// A match ends here if the text ends here.
    pub(super) at_end: bool,
    /// A match may end here or later.
    pub(super) live: bool,
    /// A match may end after at least one more byte.
    pub(super) grows: bool,
}

/// The source of a [`Machine`].
pub(super) trait Automaton {
    type State: Copy + Eq + Hash;

    /// The state at the start of a match, by the byte before it; `None` if no match can start there.
    fn start(&self, before: Option<u8>) -> Option<Self::State>;

    /// The state after one more byte.
    fn next(&self, state: Self::State, byte: u8) -> Self::State;

    /// Whether a match ended before the byte that led to this state.
    fn is_match(&self, state: Self::State) -> bool;

    /// Whether a match ends at this state if the text ends there.
    fn is_match_at_end(&self, state: Self::State) -> bool;

    /// The class of each byte, numbered from 0. Bytes of one class have the same transitions.
    fn classes(&self) -> [u8; 256];
}

/// Why an automaton cannot be a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    TooBig,
    MatchesEmpty,
    MatchesNothing,
}

impl Machine {
    pub(super) fn new<A: Automaton>(automaton: &A) -> Result<Self, Unfit> {
        let classes = automaton.classes();
        let stride = classes.iter().map(|&class| usize::from(class) + 1).max();
        let stride = stride.unwrap_or(1);
        let mut samples = vec![0; stride];
        for byte in 0..=255u8 {
            samples[usize::from(classes[usize::from(byte)])] = byte;
        }

        let mut known: HashMap<A::State, u32> = HashMap::new();
        let mut order: Vec<A::State> = Vec::new();
        let mut number = |state: A::State, order: &mut Vec<A::State>| {
            *known.entry(state).or_insert_with(|| {
                order.push(state);
                order.len() as u32
            })
        };
        let before = (0..=255u8).map(Some).chain([None]);
        let starts: Vec<u32> = before
            .map(|before| match automaton.start(before) {
                Some(state) => number(state, &mut order),
                None => DEAD,
            })
            .collect();
        let mut next = vec![DEAD; stride];
        let mut at = 0;
        while let Some(&state) = order.get(at) {
            for &byte in &samples {
                next.push(number(automaton.next(state, byte), &mut order));
            }
            if next.len() * size_of::<u32>() > TABLE_LIMIT {
                return Err(Unfit::TooBig);
            }
            at += 1;
        }

        let mut states = vec![State::default()];
        states.extend(order.iter().map(|&state| State {
            matched: automaton.is_match(state),
            at_end: automaton.is_match_at_end(state),
            ..State::default()
        }));
        let mut machine = Self {
            classes,
            stride,
            next,
            states,
            starts,
        };
        machine.look_ahead();
        machine.check()?;
        Ok(machine)
    }

    /// Computes the properties that depend on reachable states.
    fn look_ahead(&mut self) {
        // Searches backwards from the states in which a match may end.
        let mut sources: Vec<Vec<u32>> = vec![Vec::new(); self.states.len()];
        let mut open = Vec::new();
        for from in 1..self.states.len() {
            let mut live = self.states[from].at_end;
            for &to in self.row(from) {
                live |= self.states[to as usize].matched;
                if sources[to as usize].last() != Some(&(from as u32)) {
                    sources[to as usize].push(from as u32);
                }
            }
            if live {
                self.states[from].live = true;
                open.push(from as u32);
            }
        }
        while let Some(to) = open.pop() {
            for &from in &sources[to as usize] {
                let from_state = &mut self.states[from as usize];
                from_state.grows = true;
                if !from_state.live {
                    from_state.live = true;
                    open.push(from);
                }
            }
        }
        for state in 1..self.states.len() {
            let mut row = self.row(state).iter();
            let certain = row.all(|&to| self.states[to as usize].matched);
            self.states[state].certain = certain && self.states[state].at_end;
        }
    }

    fn check(&self) -> Result<(), Unfit> {
        let starts = || self.starts.iter().map(|&start| start as usize);
        let empty = |start: usize| {
            let mut row = self.row(start).iter();
            self.states[start].at_end || row.any(|&to| self.states[to as usize].matched)
        };
        if starts().any(empty) {
            return Err(Unfit::MatchesEmpty);
        }
        if !starts().any(|start| self.states[start].live) {
            return Err(Unfit::MatchesNothing);
        }
        Ok(())
    }

    fn row(&self, state: usize) -> &[u32] {
        &self.next[state * self.stride..][..self.stride]
    }

    pub(super) fn start(&self, before: Option<u8>) -> u32 {
        self.starts[before.map_or(256, usize::from)]
    }

    pub(super) fn next(&self, state: u32, byte: u8) -> u32 {
        self.next[state as usize * self.stride + usize::from(self.classes[usize::from(byte)])]
    }

    pub(super) fn state(&self, state: u32) -> State {
        self.states[state as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether a match may begin with this byte.
    pub(super) fn may_begin_with(&self, byte: u8) -> bool {
        let mut starts = self.starts.iter();
        starts.any(|&start| self.state(self.next(start, byte)).live)
    }
}
