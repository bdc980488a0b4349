//! Which digit sequences [`Pattern::card_number`] accepts as card numbers.

use super::*;

/// Masks the card numbers in a complete text.
fn masked(text: &str) -> String {
    static CARDS: LazyLock<Patterns> =
        LazyLock::new(|| patterns([Pattern::card_number().mask("#")]).unwrap());
    let judge = CARDS.clone();
    let window = TextWindow::new(judge);
    run(&window, &[Sent::Piece(text.to_owned())], false).0
}

#[test]
fn card_number_is_found_in_any_of_its_spellings() {
    for card in [
        "4222222222222",
        "378282246310005",
        "3782 822463 10005",
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1",
        "6304000000000000000",
    ] {
        assert_eq!(masked(card), "#");
        assert_eq!(masked(&format!("no{card}.")), "no#.");
        assert_eq!(masked(&format!("\u{e4} {card} or {card}")), "\u{e4} # or #");
    }
}

#[test]
fn number_beside_a_card_number_does_not_hide_it() {
    assert_eq!(masked("2 4111 1111 1111 1111 7"), "2 # 7");
}

#[test]
fn other_number_is_not_found() {
    for other in [
        "4111 1111 1111 1112",
        "4111  1111 1111 1111",
        "4111.1111.1111.1111",
        "411111111117",
        "94111111111111111",
        "41111111111111119",
        "41111111111111114111111111111111",
    ] {
        assert_eq!(masked(other), other);
    }
}
