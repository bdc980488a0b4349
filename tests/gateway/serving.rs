//! Runs the gateway on sockets in this process, with settings as the user gives them.

use std::net::SocketAddr;

use clap::{CommandFactory, Parser};
use tower::Layer;

use crate::{
    gateway_guard, proxy,
    routes::layer,
    server::{bind, serve},
    settings::Settings,
};

/// The settings with these environment variables.
pub fn settings(variables: &[(&str, &str)]) -> Settings {
    let command = Settings::command();
    let arguments = variables.iter().flat_map(|(variable, value)| {
        let mut arguments = command.get_arguments();
        let argument = arguments.find(|argument| argument.get_env() == Some(variable.as_ref()));
        let argument = argument.unwrap();
        let flag = format!("--{}", argument.get_long().unwrap());
        // The flag of a switch has no value.
        let has_value = argument.get_action().takes_values();
        [Some(flag), has_value.then(|| (*value).to_owned())]
    });
    let arguments = arguments.flatten();
    Settings::parse_from(["gateway".to_owned()].into_iter().chain(arguments))
}

/// Starts the gateway with these environment variables in front of an upstream. Returns the address of the gateway.
pub async fn gateway(variables: &[(&str, &str)], upstream: SocketAddr) -> SocketAddr {
    let settings = settings(&[&[("SSEP_LISTEN", "127.0.0.1:0")], variables].concat());
    let upstream = format!("http://{upstream}").parse().unwrap();
    let listener = bind(&settings.listen, "SSEP_LISTEN").unwrap();
    let address = listener.local_addr().unwrap();
    let policy = gateway_guard::policy(&settings).unwrap();
    let layer = layer(policy, &settings, address, &upstream).unwrap();
    let streams = layer.streams();
    let service = layer.layer(proxy::Upstream::new(&upstream).unwrap());
    tokio::spawn(async move { serve(listener, service, streams, &settings).await });
    address
}
