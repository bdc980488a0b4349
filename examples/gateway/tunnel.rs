//! Upgrades: once both sides have agreed to another protocol, bytes are copied and nobody looks at them.

use http::{
    HeaderMap, HeaderValue,
    header::{CONNECTION, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// The protocol that a head asks for or agrees to (RFC 9110 7.8). Not another HTTP, nor TLS: what flows in a tunnel is not
/// looked at, and HTTP is to be.
pub fn asked_for(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let upgrade = headers.get(UPGRADE).filter(|_| named)?;
    let more_http = upgrade.to_str().ok()?.split(',').any(|protocol| {
        let name = protocol.split('/').next().unwrap_or_default().trim();
        ["h2c", "h2", "http", "tls"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    });
    (!more_http).then(|| upgrade.clone())
}

pub fn ask(headers: &mut HeaderMap, upgrade: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, upgrade);
}

/// Joins the two connections once both are free of HTTP.
pub fn open(client: OnUpgrade, upstream: OnUpgrade) {
    tokio::spawn(async move {
        let joined = async {
            let (client, upstream) = tokio::try_join!(client, upstream)?;
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        if let Err(error) = joined.await {
            tracing::debug!("an upgraded connection broke: {error}");
        }
    });
}
