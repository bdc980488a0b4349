//! Connections to an upstream.

use std::{io, time::Duration};

use http::uri::Scheme;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;

/// Makes HTTP/1.1 connections, which may take this long.
pub fn connector(
    scheme: &Scheme,
    limit: Option<Duration>,
) -> io::Result<HttpsConnector<HttpConnector>> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(limit);
    tcp.enforce_http(false);
    let tls = HttpsConnectorBuilder::new();
    // Reads the trusted root certificates only for https, so that http works in a container without any.
    let tls = if *scheme == Scheme::HTTPS {
        tls.with_native_roots()?
    } else {
        tls.with_tls_config(no_roots())
    };
    Ok(tls.https_or_http().enable_http1().wrap_connector(tcp))
}

fn no_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
