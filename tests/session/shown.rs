//! `Debug` output of public types contains the name of the type, and settings that are not secret.

use http::HeaderName;
use tower_sse_proxy::session::{SessionId, SessionMapping};

#[test]
fn debug_output_contains_the_rules_and_the_error() {
    let rules = SessionMapping::header(HeaderName::from_static("x-session"))
        .in_data("/id")
        .unwrap();
    let shown = format!("{rules:?}");
    assert!(shown.starts_with("SessionMapping {"), "{shown}");
    assert!(
        shown.contains("x-session") && shown.contains("/id"),
        "{shown}"
    );
    let malformed = SessionId::parse("").unwrap_err();
    assert_eq!(format!("{malformed:?}"), "MalformedId");
}
