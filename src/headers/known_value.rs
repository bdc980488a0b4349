//! The value of a header field, from a closed list. For labels of metrics, which must not have arbitrary values of clients.

use http::HeaderMap;

/// The value of the field, or `other` if it is none of the known ones, or if the field occurs several times. `None` without this field.
pub(super) fn known_value(
    headers: &HeaderMap,
    name: &str,
    known: &[&'static str],
) -> Option<&'static str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    let known = known.iter().find(|known| value == **known);
    Some(
        known
            .filter(|_| values.next().is_none())
            .unwrap_or(&"other"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_one_of_a_closed_list() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-fruit", value.parse().unwrap());
            }
            known_value(&headers, "x-fruit", &["apple", "pear"])
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["pear"]), Some("pear"));
        assert_eq!(of(&["pear", "apple"]), Some("other"));
        assert_eq!(of(&["Pear"]), Some("other"));
        assert_eq!(of(&["<script>"]), Some("other"));
    }
}
