//! Which paths the gateway takes for those of MCP.

use crate::path::leads_to;

#[test]
fn no_spelling_of_a_path_goes_around_the_rules_for_it() {
    for spelled in [
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
        // To who resolves it as a URL, what stands behind two slashes is a host.
        "//host/mcp",
        "///host:80/mcp",
        r"/\host/mcp",
        r"/\host\mcp",
        "//u@host/s/../mcp",
        "//host//mcp/x",
        "/%2fhost/mcp",
    ] {
        assert!(leads_to(spelled, "/mcp"), "{spelled}");
        assert!(leads_to(spelled, "/mcp/"), "{spelled}");
    }
}

#[test]
fn other_paths_are_other_paths() {
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
