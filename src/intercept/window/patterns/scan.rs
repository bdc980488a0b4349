//! Runs the automata of all patterns over a text as it comes.
//!
//! An automaton is run from each byte at which a match may start. Two runs in one state have the same future, so only the
//! earlier one goes on: there are never more runs than states, and the cost of a byte is bounded. What is found is what
//! `find_iter` of a regular expression finds in the whole text: leftmost matches that do not overlap.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use super::machine::Machine;
use crate::intercept::window::scan::{Found, Scan};

/// What is looked for.
pub(super) struct Search {
    pub(super) patterns: Vec<Compiled>,
    /// The patterns of which a match may begin with a byte.
    pub(super) by_first: Vec<Vec<usize>>,
}

pub(super) struct Compiled {
    pub(super) machine: Machine,
    /// Finds the longest match from each start, also where matches overlap.
    pub(super) overlapping: bool,
    /// The mask; `None` blocks.
    pub(super) with: Option<Arc<str>>,
}

impl Search {
    pub(super) fn new(patterns: Vec<Compiled>) -> Self {
        let begins = |byte: u8| {
            let patterns = patterns.iter().enumerate();
            let begins = patterns.filter(|(_, pattern)| pattern.machine.may_begin_with(byte));
            begins.map(|(n, _)| n).collect()
        };
        Self {
            by_first: (0..=255).map(begins).collect(),
            patterns,
        }
    }
}

/// Where the search in one text stands.
pub(super) struct Scanner {
    search: Arc<Search>,
    /// Patterns of which a match may be in progress.
    active: Vec<Run>,
    /// Runs without content, for their buffers.
    spare: Vec<Run>,
    /// So many bytes have been read.
    at: usize,
    last: Option<u8>,
}

impl Scanner {
    pub(super) fn new(search: Arc<Search>) -> Self {
        Self {
            search,
            active: Vec::new(),
            spare: Vec::new(),
            at: 0,
            last: None,
        }
    }
}

impl Scan for Scanner {
    fn push(&mut self, text: &str, found: &mut Vec<Found>) {
        let search = &*self.search;
        for byte in text.bytes() {
            let step = Step {
                byte,
                before: self.last,
                at: self.at,
            };
            for run in &mut self.active {
                run.step(&search.patterns[run.pattern], &step, found);
            }
            // Runs that ended at this byte are still there: they have dealt with a start at it.
            let known = self.active.len();
            for &pattern in &search.by_first[usize::from(byte)] {
                if self.active[..known]
                    .iter()
                    .any(|run| run.pattern == pattern)
                {
                    continue;
                }
                let mut run = self.spare.pop().unwrap_or_default();
                run.pattern = pattern;
                run.step(&search.patterns[pattern], &step, found);
                self.active.push(run);
            }
            let mut n = 0;
            while let Some(run) = self.active.get(n) {
                if run.is_over() {
                    self.spare.push(self.active.swap_remove(n));
                } else {
                    n += 1;
                }
            }
            self.at += 1;
            self.last = Some(byte);
        }
    }

    fn finish(&self, found: &mut Vec<Found>) {
        for run in &self.active {
            run.finish(&self.search.patterns[run.pattern], self.at, found);
        }
    }

    fn undecided(&self) -> usize {
        let starts = self.active.iter().filter_map(|run| run.live.first());
        starts.map(|live| live.start).min().unwrap_or(self.at)
    }

    fn forget(&mut self, until: usize) {
        for run in &mut self.active {
            while run.decided.front().is_some_and(|range| range.end <= until) {
                run.decided.pop_front();
            }
        }
    }
}

/// A byte, and where it stands.
struct Step {
    byte: u8,
    before: Option<u8>,
    at: usize,
}

/// The search for one pattern.
#[derive(Default)]
struct Run {
    pattern: usize,
    /// Matches that may be in progress, in the order of their starts, each in a state of its own.
    live: Vec<Live>,
    /// Matches that will not grow, in order, which stand unless one that began before them becomes a match.
    decided: VecDeque<Range<usize>>,
    /// The step at which a state was seen last, where that is quicker than to look through `live`.
    seen: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Live {
    start: usize,
    state: u32,
    /// The end of the longest match so far.
    end: Option<usize>,
}

/// With more runs than this, states that were seen are looked up in a table.
const FEW: usize = 16;

impl Run {
    fn is_over(&self) -> bool {
        self.live.is_empty()
    }

    fn step(&mut self, pattern: &Compiled, step: &Step, found: &mut Vec<Found>) {
        let machine = &pattern.machine;
        if self.live.len() <= FEW {
            self.seen = Vec::new();
        } else if self.seen.is_empty() {
            self.seen.resize(machine.len(), usize::MAX);
        }
        let is_character = step.byte & 0xc0 != 0x80;
        let new = is_character.then(|| Live {
            start: step.at,
            state: machine.start(step.before),
            end: None,
        });
        // Starts before this lie within a match.
        let mut free = 0;
        let mut kept = 0;
        let before = self.live.len();
        for n in 0..=before {
            let Some(mut live) = (if n < before { Some(self.live[n]) } else { new }) else {
                continue;
            };
            if live.start < free {
                continue;
            }
            let state = machine.next(live.state, step.byte);
            let is = machine.state(state);
            let end = if is.certain {
                Some(step.at + 1)
            } else if is.matched {
                Some(step.at)
            } else {
                None
            };
            live.state = state;
            if end.is_some() {
                live.end = end;
                self.matched(pattern, &live, found);
            }
            if !pattern.overlapping {
                free = live.end.unwrap_or(free);
            }
            let goes_on = is.live && (is.grows || !is.certain);
            if goes_on && !self.has_seen(kept, state, step.at) {
                if kept < self.live.len() {
                    self.live[kept] = live;
                } else {
                    self.live.push(live);
                }
                kept += 1;
            } else if let Some(end) = live.end {
                self.decide(pattern, live.start..end, found);
            }
        }
        self.live.truncate(kept);
        // What stands before all that may become a match stands for certain.
        let undecided = self.live.first().map_or(usize::MAX, |live| live.start);
        let stands = self
            .decided
            .partition_point(|range| range.start < undecided);
        for range in self.decided.drain(..stands) {
            report(pattern, self.pattern, range, found);
        }
    }

    /// Whether one of the first `kept` is in this state.
    fn has_seen(&mut self, kept: usize, state: u32, at: usize) -> bool {
        match self.seen.get_mut(state as usize) {
            Some(seen) => std::mem::replace(seen, at) == at,
            None => self.live[..kept].iter().any(|live| live.state == state),
        }
    }

    /// A match has come to be, or has grown.
    fn matched(&mut self, pattern: &Compiled, live: &Live, found: &mut Vec<Found>) {
        if pattern.with.is_none() {
            // However it goes on, something is found.
            if let Some(end) = live.end {
                report(pattern, self.pattern, live.start..end, found);
            }
        }
        if !pattern.overlapping {
            // They began within it.
            let before = self
                .decided
                .partition_point(|range| range.start < live.start);
            self.decided.truncate(before);
        }
    }

    /// A match does not grow any more.
    fn decide(&mut self, pattern: &Compiled, range: Range<usize>, found: &mut Vec<Found>) {
        if pattern.overlapping {
            report(pattern, self.pattern, range, found);
        } else {
            let after = self
                .decided
                .partition_point(|other| other.start < range.start);
            self.decided.insert(after, range);
        }
    }

    fn finish(&self, pattern: &Compiled, at: usize, found: &mut Vec<Found>) {
        let mut ranges: Vec<_> = self.decided.iter().cloned().collect();
        for live in &self.live {
            let at_end = pattern.machine.state(live.state).at_end;
            let end = if at_end { Some(at) } else { live.end };
            ranges.extend(end.map(|end| live.start..end));
        }
        ranges.sort_by_key(|range| range.start);
        let mut free = 0;
        for range in ranges {
            if range.start >= free {
                if !pattern.overlapping {
                    free = range.end;
                }
                report(pattern, self.pattern, range, found);
            }
        }
    }
}

fn report(pattern: &Compiled, number: usize, range: Range<usize>, found: &mut Vec<Found>) {
    found.push(Found {
        range,
        pattern: number,
        with: pattern.with.clone(),
    });
}
