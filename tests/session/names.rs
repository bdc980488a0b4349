//! Which names of headers and parameters stand for that of a session rule, and which do not.

use http::{HeaderName, StatusCode};
use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};

use crate::proxy::{Proxy, answer, ask, by_header, header, opens, with};

#[tokio::test]
async fn header_of_the_same_length_with_another_name_is_left_alone() {
    // The rule is for `X-Session`. Only `_` may stand for its `-`.
    let proxy = Proxy::new(by_header(), |_| with(answer(""), "xasession", "theirs"));
    let response = proxy.send(ask("/").header("xbsession", "ours")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(proxy.asked.header("xbsession").as_deref(), Some("ours"));
    assert_eq!(header(&response, "xasession").as_deref(), Some("theirs"));
}

#[tokio::test]
async fn only_a_max_age_of_zero_or_less_takes_a_cookie_back() {
    for attributes in ["Max-Age=3600", "Version=0", "Max-Age=9; Version=-1"] {
        let cookie = format!("sid=UP-1; {attributes}");
        let layer =
            SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
        let proxy = Proxy::new(layer, move |_| with(answer(""), "set-cookie", &cookie));
        let given = header(&proxy.send(ask("/")).await, "set-cookie").unwrap();
        let id = given.strip_prefix("sid=").unwrap();
        let id = id.strip_suffix(&format!("; {attributes}")).unwrap();
        assert!(!id.is_empty() && id != "UP-1", "{given}");
    }
}

#[tokio::test]
async fn parameter_with_a_plus_is_mapped_if_either_reading_of_it_is_the_name() {
    for name in ["session id", "session+id"] {
        let rules = SessionMapping::header(HeaderName::from_static("x-session"))
            .in_query(name)
            .unwrap();
        let proxy = Proxy::new(SseProxyLayer::default().sessions(rules), opens);
        let id = header(&proxy.send(ask("/")).await, "x-session").unwrap();
        let response = proxy.send(ask(&format!("/?session+id={id}"))).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        assert_eq!(proxy.asked.last().uri().query(), Some("session+id=UP-1"));
    }
}
