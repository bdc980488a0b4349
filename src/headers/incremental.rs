//! The field `Incremental` (RFC 10036): whether a message should be forwarded as it arrives.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `?1` asks intermediaries to forward the body as it arrives.
pub(crate) const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");

/// Adds `Incremental: ?1` to a message.
pub(crate) fn set_incremental(headers: &mut HeaderMap) {
    headers.insert(INCREMENTAL, HeaderValue::from_static("?1"));
}

/// Whether the sender of a message asks intermediaries to forward it as it arrives.
///
/// The value is the boolean `?1`, with parameters or without (RFC 9651 3.3.6). A field with another value, or several ones, is ignored
/// (RFC 9651 4.2).
pub(crate) fn is_incremental(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(INCREMENTAL).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let item = value.as_bytes().split(|&byte| byte == b';').next();
    item.is_some_and(|item| item.trim_ascii() == b"?1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_true_boolean_is_incremental() {
        for (values, expected) in [
            (&["?1"][..], true),
            (&[" ?1 "], true),
            (&["?1;a=2"], true),
            (&["?1 ; a"], true),
            (&["?0"], false),
            (&["?1", "?1"], false),
            (&["?1, ?1"], false),
            (&["1"], false),
            (&["true"], false),
            (&[""], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(INCREMENTAL, value.parse().unwrap());
            }
            assert_eq!(is_incremental(&headers), expected, "{values:?}");
        }
    }
}
