//! Which spellings of a path the gateway treats as the MCP path.

use crate::path::leads_to;

#[test]
fn all_spellings_of_a_path_lead_to_it() {
    for spelling in [
        "/mcp",
        "/mcp/",
        "/mcp/x",
        "//mcp",
        "/./mcp",
        "/mc%70",
        "/%6Dcp",
        "/s/../mcp",
        "/s/%2e%2E/mcp",
        "/s/..%2fmcp",
        "/s/..%5Cmcp",
        r"/s\..\mcp",
        "/MCP",
        "/%4dCP",
        "/mcp;v=1",
        "/mcp;v=1/x",
        "/s/..;/mcp",
        "/s;x/../mcp",
        "/mcp%3fx",
        "/mcp%23x",
        "/mcp%00",
        "/mcp%00.png",
        "/mcp%20",
        "/mcp%09",
        "/mcp/..",
        "/mcp/../s",
        "/mcp/%2e%2e/s",
        // A server that resolves the target as a URL takes the part after two slashes for a host.
        "//host/mcp",
        "///host:80/mcp",
        r"/\host/mcp",
        r"/\host\mcp",
        "//u@host/s/../mcp",
        "//host//mcp/x",
        "/%2fhost/mcp",
    ] {
        assert!(leads_to(spelling, "/mcp"), "{spelling}");
        assert!(leads_to(spelling, "/mcp/"), "{spelling}");
    }
}

#[test]
fn other_paths_do_not_lead_to_it() {
    for other in [
        "/",
        "",
        "*",
        "/s/mcp",
        "/mcpx",
        "/mc",
        "/mcp-x/y",
        "/s/../x",
        "/;mcp",
        "//host",
        "//host/",
        "//host/s/mcp",
    ] {
        assert!(!leads_to(other, "/mcp"), "{other}");
    }
    assert!(leads_to("/a/b/c", "/a/b"));
    assert!(!leads_to("/a", "/a/b"));
    assert!(leads_to("/anything", "/"));
}
