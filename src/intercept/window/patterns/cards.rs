//! The automaton of card numbers: digits, separators, and the check digit.

use super::machine::Automaton;

/// 13 to 19 digits with at most one space or hyphen between two digits, and a valid check digit (Luhn, ISO/IEC 7812-1).
///
/// A card number does not begin or end inside a longer run of digits.
pub(super) struct Cards;

const FEWEST: u8 = 13;
const MOST: u8 = 19;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CardState {
    Start,
    Number(Number),
    /// A space or hyphen follows the number.
    Separator(Number),
    /// Another byte follows the number.
    Over {
        matched: bool,
    },
}

/// Whether a digit is doubled depends on the number of digits after it, so this has both sums, modulo 10.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Number {
    digits: u8,
    /// The sum if the last digit is not doubled: the checksum if the number ends here.
    once: u8,
    /// The sum if the last digit is doubled.
    twice: u8,
}

impl Number {
    fn with(self, digit: u8) -> Self {
        // The sum of the digits of the double.
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
    type State = CardState;

    fn start(&self, before: Option<u8>) -> Option<CardState> {
        let within = before.is_some_and(|byte| byte.is_ascii_digit());
        (!within).then_some(CardState::Start)
    }

    fn next(&self, state: CardState, byte: u8) -> CardState {
        let over = CardState::Over { matched: false };
        match (state, byte) {
            (CardState::Start, b'0'..=b'9') => {
                CardState::Number(Number::default().with(byte - b'0'))
            }
            (CardState::Number(number) | CardState::Separator(number), b'0'..=b'9') => {
                if number.digits < MOST {
                    CardState::Number(number.with(byte - b'0'))
                } else {
                    over
                }
            }
            (CardState::Number(number), b' ' | b'-') => CardState::Separator(number),
            (CardState::Number(number), _) => CardState::Over {
                matched: number.is_card(),
            },
            _ => over,
        }
    }

    fn is_match(&self, state: CardState) -> bool {
        match state {
            CardState::Separator(number) => number.is_card(),
            CardState::Over { matched } => matched,
            _ => false,
        }
    }

    fn is_match_at_end(&self, state: CardState) -> bool {
        matches!(state, CardState::Number(number) if number.is_card())
    }

    fn classes(&self) -> [u8; 256] {
        std::array::from_fn(|byte| match byte as u8 {
            digit @ b'0'..=b'9' => digit - b'0',
            b' ' | b'-' => 10,
            _ => 11,
        })
    }
}
