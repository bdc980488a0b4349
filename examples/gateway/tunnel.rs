//! Protocol upgrades: after client and upstream have agreed on another protocol, the gateway copies bytes without inspection.

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// The protocol that a head requests or accepts (RFC 9110 7.8). Returns `None` for HTTP and TLS: the gateway does not inspect
/// upgraded connections, so an upgrade to HTTP would bypass the interceptors.
pub fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let upgrade = headers.get(UPGRADE).filter(|_| named)?;
    let is_http = upgrade.to_str().ok()?.split(',').any(|protocol| {
        let name = protocol.split('/').next().unwrap_or_default().trim();
        ["h2c", "h2", "http", "tls"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    });
    (!is_http).then(|| upgrade.clone())
}

/// Sets the header fields that request or accept an upgrade.
pub fn set_upgrade(headers: &mut HeaderMap, upgrade: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, upgrade);
}

/// Closes the connection if the response to a request for an upgrade is not 101. The client may already have sent bytes of the other
/// protocol, and the gateway must not read them as the next request.
pub fn close_unless_switched<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// Copies bytes between both connections after both have been upgraded.
pub fn open(client: OnUpgrade, upstream: OnUpgrade) {
    tokio::spawn(async move {
        let joined = async {
            let (client, upstream) = tokio::try_join!(client, upstream)?;
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        if let Err(error) = joined.await {
            tracing::debug!("an upgraded connection failed: {error}");
        }
    });
}
