//! The modules of the gateway, guardrail and hyper examples.

#[path = "../../examples/gateway/admin.rs"]
#[expect(dead_code, reason = "its listener is not tested here")]
mod admin;
#[path = "../../examples/guardrail/ending.rs"]
mod ending;
#[path = "../../examples/forward/mod.rs"]
mod forward;
#[path = "../../examples/gateway/guard.rs"]
mod gateway_guard;
#[path = "../../examples/guardrail/guard.rs"]
mod guard;
#[path = "../../examples/gateway/half_close.rs"]
mod half_close;
#[expect(dead_code, reason = "its main function is not tested here")]
#[path = "../../examples/hyper.rs"]
mod hyper_example;
#[path = "../../examples/gateway/mcp.rs"]
mod mcp;
#[path = "../../examples/gateway/path.rs"]
mod path;
#[path = "../../examples/gateway/proxy.rs"]
mod proxy;
#[path = "../../examples/gateway/record_log.rs"]
mod record_log;
#[path = "../../examples/gateway/routes.rs"]
mod routes;
#[path = "../../examples/gateway/server.rs"]
mod server;
#[path = "../../examples/gateway/settings.rs"]
#[expect(dead_code, reason = "the tests need a part of the settings")]
mod settings;
#[path = "../../examples/gateway/socket.rs"]
mod socket;
#[path = "../../examples/gateway/stall.rs"]
mod stall;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../examples/gateway/text.rs"]
mod text;
#[path = "../../examples/gateway/totals.rs"]
mod totals;
#[path = "../../examples/gateway/tunnel.rs"]
mod tunnel;

mod admin_routes;
mod dashboards;
mod descriptors;
mod detaching;
mod disconnects;
mod faults;
mod forwarding;
mod guardrail;
mod half_closing;
mod limits;
mod origins;
mod owners;
mod paths;
mod routing;
mod search;
mod secrets;
mod serving;
mod slow_heads;
mod slow_readers;
mod stalling;
mod tenants;
mod upstream;
#[cfg(target_os = "linux")]
mod vanished;
mod window;

use forward::{connector, http_rules};
