//! Which spellings of a header or parameter name match the name in a session rule.

use http::HeaderName;
use http::StatusCode;
use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};

use crate::proxy::{Proxy, answer, by_header, header, opens_session, post, with};

#[tokio::test]
async fn header_with_another_name_of_the_same_length_is_unchanged() {
    // The rule names `X-Session`. In its place, only `_` matches `-`.
    let proxy = Proxy::new(by_header(), |_| {
        with(answer(""), "xasession", "from-upstream")
    });
    let response = proxy
        .send(post("/").header("xbsession", "from-client"))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        proxy.requests.header("xbsession").as_deref(),
        Some("from-client")
    );
    assert_eq!(
        header(&response, "xasession").as_deref(),
        Some("from-upstream")
    );
}

#[tokio::test]
async fn only_a_max_age_of_zero_or_less_deletes_a_cookie() {
    for attributes in ["Max-Age=3600", "Version=0", "Max-Age=9; Version=-1"] {
        let cookie = format!("sid=UP-1; {attributes}");
        let layer =
            SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
        let proxy = Proxy::new(layer, move |_| with(answer(""), "set-cookie", &cookie));
        let mapped = header(&proxy.send(post("/")).await, "set-cookie").unwrap();
        let id = mapped.strip_prefix("sid=").unwrap();
        let id = id.strip_suffix(&format!("; {attributes}")).unwrap();
        assert!(!id.is_empty() && id != "UP-1", "{mapped}");
    }
}

#[tokio::test]
async fn plus_in_a_parameter_matches_a_plus_or_a_space_in_the_rule() {
    for name in ["session id", "session+id"] {
        let rules = SessionMapping::header(HeaderName::from_static("x-session"))
            .in_query(name)
            .unwrap();
        let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens_session);
        let id = header(&proxy.send(post("/")).await, "x-session").unwrap();
        let response = proxy.send(post(&format!("/?session+id={id}"))).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        assert_eq!(proxy.requests.last().uri().query(), Some("session+id=UP-1"));
    }
}
