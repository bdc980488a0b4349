//! Session ids in cookies.

use crate::proxy::{Proxy, answer, ask, header, with};
use http::{HeaderValue, StatusCode};
use tower_sse_proxy::{SseProxyLayer, session::SessionMapping};

#[tokio::test]
async fn cookies_are_mapped_and_others_stay() {
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
    let proxy = Proxy::new(layer, |_| {
        let answer = with(answer(""), "set-cookie", "theme=dark; Path=/");
        with(answer, "set-cookie", "sid=UP-1; Path=/; HttpOnly")
    });
    let opened = proxy.send(ask("/").header("cookie", "a=1")).await;
    let given: Vec<_> = opened.headers().get_all("set-cookie").iter().collect();
    assert_eq!(given[0], "theme=dark; Path=/");
    let given = given[1].to_str().unwrap();
    let id = given
        .strip_prefix("sid=")
        .unwrap()
        .strip_suffix("; Path=/; HttpOnly")
        .unwrap();
    assert_ne!(id, "UP-1");
    // Other cookies are not part of the owner.
    let request = ask("/").header("cookie", format!("a=1; sid={id}"));
    assert_eq!(proxy.send(request).await.status(), StatusCode::OK);
    assert_eq!(proxy.asked.header("cookie").unwrap(), "a=1; sid=UP-1");
    let changed = || ask("/").header("cookie", format!("a=2; sid={id}"));
    assert_eq!(proxy.send(changed()).await.status(), StatusCode::OK);
    let other = changed().header("authorization", "another's");
    assert_eq!(proxy.send(other).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_cookie_that_is_taken_back_is_no_session_and_tells_no_id() {
    for (given, passed) in [
        ("sid=UP-1; Max-Age=0", "sid=; Max-Age=0"),
        ("sid=\"UP-1\";max-age=-1", "sid=\"\";max-age=-1"),
        // Browsers go by the last one. The session is lost then, but not its id.
        (
            "sid=UP-1; Max-Age=0; Max-Age=9",
            "sid=; Max-Age=0; Max-Age=9",
        ),
        ("sid=; Max-Age=0", "sid=; Max-Age=0"),
    ] {
        let layer =
            SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
        let proxy = Proxy::new(layer, move |_| with(answer(""), "set-cookie", given));
        let response = proxy.send(ask("/")).await;
        assert_eq!(header(&response, "set-cookie").unwrap(), passed);
    }
}

#[tokio::test]
async fn a_cookie_beside_what_is_no_text_is_mapped_all_the_same() {
    let latin1 = |text: &[u8]| HeaderValue::from_bytes(text).unwrap();
    let layer = SseProxyLayer::default().sessions(SessionMapping::none().in_cookie("sid").unwrap());
    let layer = layer.owner(|_| None::<Vec<u8>>);
    let proxy = Proxy::new(layer, |_| {
        let mut answer = answer("");
        let cookie = HeaderValue::from_bytes(b"sid=UP-1; Path=/caf\xe9").unwrap();
        answer.headers_mut().insert("set-cookie", cookie);
        answer
    });
    let opened = proxy.send(ask("/")).await;
    let given = opened.headers()["set-cookie"].as_bytes();
    let id = given.strip_prefix(b"sid=").unwrap();
    let id = id.strip_suffix(b"; Path=/caf\xe9").unwrap();
    assert_ne!(id, b"UP-1");
    let asked = proxy.asked.count();
    // The last one is white space to those who read a head as Latin-1.
    for stolen in [
        &b"sid=UP-1; a=caf\xe9"[..],
        b"a=caf\xe9;sid=UP-1",
        b"a=1; \xa0sid=UP-1",
    ] {
        let response = proxy.send(ask("/").header("cookie", latin1(stolen))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(proxy.asked.count(), asked);
    let own = [b"a=caf\xe9; sid=", id].concat();
    let response = proxy.send(ask("/").header("cookie", latin1(&own))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        proxy.asked.last().headers()["cookie"],
        latin1(b"a=caf\xe9; sid=UP-1")
    );
}
