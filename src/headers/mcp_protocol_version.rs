//! The revision of the Model Context Protocol that a request names.

use http::HeaderMap;

/// The revisions whose requests name them (since 2025-06-18), and those before.
const KNOWN: [&str; 5] = [
    "2024-11-05",
    "2025-03-26",
    "2025-06-18",
    "2025-11-25",
    "2026-07-28",
];

/// The revision in `MCP-Protocol-Version`, from a closed list: `other` if it is none of the known ones, or if there are several. `None`
/// without this field.
pub(crate) fn mcp_protocol_version(headers: &HeaderMap) -> Option<&'static str> {
    let mut values = headers.get_all("mcp-protocol-version").iter();
    let value = values.next()?;
    let known = KNOWN.into_iter().find(|known| value == known);
    Some(known.filter(|_| values.next().is_none()).unwrap_or("other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_is_one_of_a_closed_list() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("mcp-protocol-version", value.parse().unwrap());
            }
            mcp_protocol_version(&headers)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["2025-06-18"]), Some("2025-06-18"));
        assert_eq!(of(&["2025-06-18", "2025-11-25"]), Some("other"));
        assert_eq!(of(&["<script>"]), Some("other"));
    }
}
