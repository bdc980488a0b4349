//! Session ids in cookies.

use crate::proxy::{Proxy, answer, header, post, with};
use http::{HeaderValue, StatusCode};
use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};

#[tokio::test]
async fn session_cookie_is_mapped_and_other_cookies_are_not() {
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
    let proxy = Proxy::new(layer, |_| {
        let answer = with(answer(""), "set-cookie", "theme=dark; Path=/");
        with(answer, "set-cookie", "sid=UP-1; Path=/; HttpOnly")
    });
    let opened = proxy.send(post("/").header("cookie", "a=1")).await;
    let cookies: Vec<_> = opened.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies[0], "theme=dark; Path=/");
    let cookie = cookies[1].to_str().unwrap();
    let id = cookie
        .strip_prefix("sid=")
        .unwrap()
        .strip_suffix("; Path=/; HttpOnly")
        .unwrap();
    assert_ne!(id, "UP-1");
    // Other cookies are not part of the owner.
    let request = post("/").header("cookie", format!("a=1; sid={id}"));
    assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
    assert_eq!(proxy.requests.header("cookie").unwrap(), "a=1; sid=UP-1");
    let changed = || post("/").header("cookie", format!("a=2; sid={id}"));
    assert_eq!(proxy.send(changed()).await.status(), StatusCode::OK);
    let other = changed().header("authorization", "another's");
    assert_eq!(proxy.send(other).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn cookie_that_the_upstream_deletes_opens_no_session_and_loses_its_id() {
    for (upstream_cookie, client_cookie) in [
        ("sid=UP-1; Max-Age=0", "sid=; Max-Age=0"),
        ("sid=\"UP-1\";max-age=-1", "sid=\"\";max-age=-1"),
        // Browsers use the last `Max-Age`. The layer removes the id nevertheless, and opens no session.
        (
            "sid=UP-1; Max-Age=0; Max-Age=9",
            "sid=; Max-Age=0; Max-Age=9",
        ),
        ("sid=; Max-Age=0", "sid=; Max-Age=0"),
    ] {
        let layer =
            SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
        let proxy = Proxy::new(layer, move |_| {
            with(answer(""), "set-cookie", upstream_cookie)
        });
        let response = proxy.send(post("/")).await;
        assert_eq!(header(&response, "set-cookie").unwrap(), client_cookie);
    }
}

#[tokio::test]
async fn cookie_is_mapped_beside_bytes_that_are_not_ascii() {
    let latin1 = |text: &[u8]| HeaderValue::from_bytes(text).unwrap();
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
    let layer = layer.owner(|_| None::<Vec<u8>>);
    let proxy = Proxy::new(layer, |_| {
        let mut answer = answer("");
        let cookie = HeaderValue::from_bytes(b"sid=UP-1; Path=/caf\xe9").unwrap();
        answer.headers_mut().insert("set-cookie", cookie);
        answer
    });
    let opened = proxy.send(post("/")).await;
    let cookie = opened.headers()["set-cookie"].as_bytes();
    let id = cookie.strip_prefix(b"sid=").unwrap();
    let id = id.strip_suffix(b"; Path=/caf\xe9").unwrap();
    assert_ne!(id, b"UP-1");
    let requests_before = proxy.requests.count();
    // The byte 0xA0 in the last value is white space in Latin-1.
    for stolen in [
        &b"sid=UP-1; a=caf\xe9"[..],
        b"a=caf\xe9;sid=UP-1",
        b"a=1; \xa0sid=UP-1",
    ] {
        let response = proxy.send(post("/").header("cookie", latin1(stolen))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(proxy.requests.count(), requests_before);
    let own = [b"a=caf\xe9; sid=", id].concat();
    let response = proxy.send(post("/").header("cookie", latin1(&own))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        proxy.requests.last().headers()["cookie"],
        latin1(b"a=caf\xe9; sid=UP-1")
    );
}
