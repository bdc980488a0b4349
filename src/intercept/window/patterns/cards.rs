//! Card numbers as an automaton: digits, what stands between them, and the check digit.

use super::machine::Automaton;

/// 13 to 19 digits with at most one blank or dash between each two, and a check digit (Luhn, ISO/IEC 7812-1) that fits.
///
/// A number does not begin or end within a run of digits: of a longer number, no part is a card number.
pub(super) struct Cards;

const FEWEST: u8 = 13;
const MOST: u8 = 19;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reading {
    Start,
    Number(Number),
    /// A blank or dash follows the number.
    Gap(Number),
    /// Something else follows.
    Over {
        matched: bool,
    },
}

/// Which digits double depends on how many follow, so both sums are kept, modulo 10.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Number {
    digits: u8,
    /// The sum if the last digit counts once: the check sum if the number ends here.
    once: u8,
    /// The sum if the last digit counts twice.
    twice: u8,
}

impl Number {
    fn with(self, digit: u8) -> Self {
        // The digits of the double are added.
        let doubled = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9][usize::from(digit)];
        Self {
            digits: self.digits + 1,
            once: (self.twice + digit) % 10,
            twice: (self.once + doubled) % 10,
        }
    }

    fn is_card(self) -> bool {
        self.digits >= FEWEST && self.once == 0
    }
}

impl Automaton for Cards {
    type State = Reading;

    fn start(&self, before: Option<u8>) -> Option<Reading> {
        let within = before.is_some_and(|byte| byte.is_ascii_digit());
        (!within).then_some(Reading::Start)
    }

    fn next(&self, state: Reading, byte: u8) -> Reading {
        let over = Reading::Over { matched: false };
        match (state, byte) {
            (Reading::Start, b'0'..=b'9') => Reading::Number(Number::default().with(byte - b'0')),
            (Reading::Number(number) | Reading::Gap(number), b'0'..=b'9') => {
                if number.digits < MOST {
                    Reading::Number(number.with(byte - b'0'))
                } else {
                    over
                }
            }
            (Reading::Number(number), b' ' | b'-') => Reading::Gap(number),
            (Reading::Number(number), _) => Reading::Over {
                matched: number.is_card(),
            },
            _ => over,
        }
    }

    fn is_match(&self, state: Reading) -> bool {
        match state {
            Reading::Gap(number) => number.is_card(),
            Reading::Over { matched } => matched,
            _ => false,
        }
    }

    fn is_match_at_end(&self, state: Reading) -> bool {
        matches!(state, Reading::Number(number) if number.is_card())
    }

    fn classes(&self) -> [u8; 256] {
        std::array::from_fn(|byte| match byte as u8 {
            digit @ b'0'..=b'9' => digit - b'0',
            b' ' | b'-' => 10,
            _ => 11,
        })
    }
}
