//! Runs the automata of all patterns over a text as it arrives.
//!
//! A run of an automaton begins at each byte at which a match may start. Two runs in the same state have the same future, so
//! only the earlier one continues: there are at most as many runs as states, which bounds the cost of a byte. The matches are
//! those that `find_iter` of a regular expression finds in the whole text: leftmost matches that do not overlap.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use super::machine::Machine;
use crate::intercept::window::scan::{Match, Scan};

/// All compiled patterns of a judge.
pub(super) struct Search {
    pub(super) patterns: Vec<Compiled>,
    /// For each byte, the patterns whose matches may begin with it.
    pub(super) by_first: Vec<Vec<usize>>,
}

pub(super) struct Compiled {
    pub(super) machine: Machine,
    /// Whether to find the longest match from each start, even if matches overlap.
    pub(super) overlapping: bool,
    /// The replacement of a match. `None`: a match blocks.
    pub(super) mask: Option<Arc<str>>,
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

/// The state of the search in one text.
pub(super) struct Scanner {
    search: Arc<Search>,
    /// The searches of patterns with a match in progress.
    active: Vec<PatternSearch>,
    /// Ended searches, whose buffers are reused.
    spare: Vec<PatternSearch>,
    /// The number of bytes that were scanned.
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
    fn push(&mut self, text: &str, matches: &mut Vec<Match>) {
        let search = &*self.search;
        for byte in text.bytes() {
            let step = Step {
                byte,
                before: self.last,
                at: self.at,
            };
            for active in &mut self.active {
                active.step(&search.patterns[active.pattern], &step, matches);
            }
            // Includes searches that ended at this byte: they have tried a match that starts here.
            let known = self.active.len();
            for &pattern in &search.by_first[usize::from(byte)] {
                if self.active[..known]
                    .iter()
                    .any(|active| active.pattern == pattern)
                {
                    continue;
                }
                let mut active = self.spare.pop().unwrap_or_default();
                active.pattern = pattern;
                active.step(&search.patterns[pattern], &step, matches);
                self.active.push(active);
            }
            let mut n = 0;
            while let Some(active) = self.active.get(n) {
                if active.is_over() {
                    self.spare.push(self.active.swap_remove(n));
                } else {
                    n += 1;
                }
            }
            self.at += 1;
            self.last = Some(byte);
        }
    }

    fn finish(&self, matches: &mut Vec<Match>) {
        for active in &self.active {
            active.finish(&self.search.patterns[active.pattern], self.at, matches);
        }
    }

    fn undecided(&self) -> usize {
        let starts = self.active.iter().filter_map(|active| active.runs.first());
        starts.map(|run| run.start).min().unwrap_or(self.at)
    }

    fn forget(&mut self, until: usize) {
        for active in &mut self.active {
            while active.ended.front().is_some_and(|range| range.end <= until) {
                active.ended.pop_front();
            }
        }
    }
}

/// A byte and its position.
struct Step {
    byte: u8,
    before: Option<u8>,
    at: usize,
}

/// The search for one pattern.
#[derive(Default)]
struct PatternSearch {
    pattern: usize,
    /// Runs of matches in progress, in the order of their starts, each in a different state.
    runs: Vec<Run>,
    /// Matches that cannot grow, in order. They are final unless a run that began before them becomes a match.
    ended: VecDeque<Range<usize>>,
    /// For each state, the position at which a run was in it last. Used if there are many runs.
    seen: Vec<usize>,
}

/// A run of an automaton from one start.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    state: u32,
    /// The end of the longest match so far.
    end: Option<usize>,
}

/// With more runs than this, a table finds runs in the same state.
const FEW_RUNS: usize = 16;

impl PatternSearch {
    fn is_over(&self) -> bool {
        self.runs.is_empty()
    }

    fn step(&mut self, pattern: &Compiled, step: &Step, matches: &mut Vec<Match>) {
        let machine = &pattern.machine;
        if self.runs.len() <= FEW_RUNS {
            self.seen = Vec::new();
        } else if self.seen.is_empty() {
            self.seen.resize(machine.len(), usize::MAX);
        }
        let is_character = step.byte & 0xc0 != 0x80;
        let new = is_character.then(|| Run {
            start: step.at,
            state: machine.start(step.before),
            end: None,
        });
        // The end of the last match: runs that start before it are inside the match.
        let mut free = 0;
        let mut continuing = 0;
        let before = self.runs.len();
        for n in 0..=before {
            let Some(mut run) = (if n < before { Some(self.runs[n]) } else { new }) else {
                continue;
            };
            if run.start < free {
                continue;
            }
            let state = machine.next(run.state, step.byte);
            let is = machine.state(state);
            let end = if is.certain {
                Some(step.at + 1)
            } else if is.matched {
                Some(step.at)
            } else {
                None
            };
            run.state = state;
            if end.is_some() {
                run.end = end;
                self.matched(pattern, &run, matches);
            }
            if !pattern.overlapping {
                free = run.end.unwrap_or(free);
            }
            let continues = is.live && (is.grows || !is.certain);
            if continues && !self.has_seen(continuing, state, step.at) {
                if continuing < self.runs.len() {
                    self.runs[continuing] = run;
                } else {
                    self.runs.push(run);
                }
                continuing += 1;
            } else if let Some(end) = run.end {
                self.end_match(pattern, run.start..end, matches);
            }
        }
        self.runs.truncate(continuing);
        // Matches that start before all runs are final.
        let undecided = self.runs.first().map_or(usize::MAX, |run| run.start);
        let finals = self.ended.partition_point(|range| range.start < undecided);
        for range in self.ended.drain(..finals) {
            report(pattern, self.pattern, range, matches);
        }
    }

    /// Whether one of the first `count` runs is in this state.
    fn has_seen(&mut self, count: usize, state: u32, at: usize) -> bool {
        match self.seen.get_mut(state as usize) {
            Some(seen) => std::mem::replace(seen, at) == at,
            None => self.runs[..count].iter().any(|run| run.state == state),
        }
    }

    /// Handles a run that became a match, or whose match grew.
    fn matched(&mut self, pattern: &Compiled, run: &Run, matches: &mut Vec<Match>) {
        if pattern.mask.is_none() {
            // The final match may be longer, but it exists in any case.
            if let Some(end) = run.end {
                report(pattern, self.pattern, run.start..end, matches);
            }
        }
        if !pattern.overlapping {
            // These matches began inside it.
            let before = self.ended.partition_point(|range| range.start < run.start);
            self.ended.truncate(before);
        }
    }

    /// Handles a match that cannot grow.
    fn end_match(&mut self, pattern: &Compiled, range: Range<usize>, matches: &mut Vec<Match>) {
        if pattern.overlapping {
            report(pattern, self.pattern, range, matches);
        } else {
            let after = self
                .ended
                .partition_point(|other| other.start < range.start);
            self.ended.insert(after, range);
        }
    }

    fn finish(&self, pattern: &Compiled, at: usize, matches: &mut Vec<Match>) {
        let mut ranges: Vec<_> = self.ended.iter().cloned().collect();
        for run in &self.runs {
            let at_end = pattern.machine.state(run.state).at_end;
            let end = if at_end { Some(at) } else { run.end };
            ranges.extend(end.map(|end| run.start..end));
        }
        ranges.sort_by_key(|range| range.start);
        let mut free = 0;
        for range in ranges {
            if range.start >= free {
                if !pattern.overlapping {
                    free = range.end;
                }
                report(pattern, self.pattern, range, matches);
            }
        }
    }
}

fn report(pattern: &Compiled, index: usize, range: Range<usize>, matches: &mut Vec<Match>) {
    matches.push(Match {
        range,
        pattern: index,
        mask: pattern.mask.clone(),
    });
}
