//! Which fields of a request make up the owner of a session.

use crate::proxy::{Proxy, by_header, header, opens_session, post};
use http::{HeaderName, HeaderValue, StatusCode, request::Builder};
use proptest::prelude::*;
use tower_sse_proxy::session::Credentials;

/// Header fields of a request, in order.
type Fields = Vec<(&'static str, &'static str)>;

fn with(request: Builder, fields: &[(&'static str, &'static str)]) -> Builder {
    fields.iter().fold(request, |request, &(name, value)| {
        request.header(name, value)
    })
}

/// Opens a session with the fields of `opener`. Returns whether a request with the fields of `other` can use it.
async fn is_shared(proxy: &Proxy, opener: &Fields, other: &Fields) -> bool {
    let opened = proxy.send(with(post("/"), opener)).await;
    let id = header(&opened, "x-session").unwrap();
    let request = with(post("/").header("x-session", id), other);
    match proxy.send(request).await.status() {
        StatusCode::OK => true,
        StatusCode::NOT_FOUND => false,
        status => panic!("unexpected status {status}"),
    }
}

#[tokio::test]
async fn every_common_api_key_header_is_part_of_the_owner() {
    let proxy = Proxy::new(by_header(), opens_session);
    for name in [
        "authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "x-auth-token",
        "x_api_key",
        "X_Auth-Token",
    ] {
        let a = vec![(name, "a")];
        assert!(is_shared(&proxy, &a, &a).await, "{name}");
        for other in [
            vec![],
            vec![(name, "b")],
            vec![(name, "A")],
            vec![(name, "a"), (name, "a")],
            vec![(name, "a"), (name, "b")],
        ] {
            assert!(!is_shared(&proxy, &a, &other).await, "{name}: {other:?}");
            assert!(!is_shared(&proxy, &other, &a).await, "{name}: {other:?}");
        }
    }
}

#[tokio::test]
async fn other_cookies_are_not_part_of_the_owner() {
    let proxy = Proxy::new(by_header(), opens_session);
    for other in [
        vec![],
        vec![("cookie", "_ga=2")],
        vec![("cookie", "_ga=1; consent=yes")],
        vec![("cookie", "_ga=1"), ("cookie", "_ga=2")],
        vec![("cookie", ";;=")],
    ] {
        let cookie = vec![("cookie", "_ga=1")];
        assert!(is_shared(&proxy, &cookie, &other).await, "{other:?}");
    }
}

#[tokio::test]
async fn configured_cookie_is_part_of_the_owner_at_any_position() {
    let credentials = Credentials::default().cookie("login").unwrap();
    let proxy = Proxy::new(by_header().credentials(credentials), opens_session);
    let ann = vec![("cookie", "login=ann")];
    for same in [
        vec![("cookie", "_ga=7; login=ann; x")],
        vec![("cookie", "_ga=7"), ("cookie", " login = ann ;_ga=8")],
    ] {
        assert!(is_shared(&proxy, &ann, &same).await, "{same:?}");
    }
    for other in [
        vec![],
        vec![("cookie", "login=bob")],
        vec![("cookie", "login=\"ann\"")],
        vec![("cookie", "Login=ann")],
        vec![("cookie", "xlogin=ann")],
        vec![("cookie", "login=ann; login=bob")],
        vec![("cookie", "login=bob; login=ann")],
        vec![("cookie", "login=ann"), ("authorization", "ann")],
        vec![("authorization", "ann")],
    ] {
        assert!(!is_shared(&proxy, &ann, &other).await, "{other:?}");
    }
}

#[tokio::test]
async fn credentials_can_be_set_field_by_field() {
    let user = HeaderName::from_static("x-user");
    let layer = by_header().credentials(Credentials::none().header(user));
    let proxy = Proxy::new(layer, opens_session);
    let ann = vec![("x-user", "ann"), ("authorization", "old")];
    let renewed = vec![("x-user", "ann"), ("authorization", "new")];
    let bob = vec![("x-user", "bob"), ("authorization", "old")];
    assert!(is_shared(&proxy, &ann, &renewed).await);
    assert!(!is_shared(&proxy, &ann, &bob).await);
}

#[test]
fn invalid_cookie_name_is_an_error_that_contains_the_name() {
    for name in ["", "a=b", "a;b", "a b", "\u{e4}", "a\"", "a,b", "a\\b"] {
        let error = Credentials::default().cookie(name).unwrap_err();
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    assert!(Credentials::default().cookie("__Host-sid").is_ok());
}

fn fields() -> impl Strategy<Value = Fields> {
    let name = prop::sample::select(vec!["authorization", "x-api-key", "api-key"]);
    let value = prop::sample::select(vec!["", "a", "ab", "b", "api-key", "x-api-key", "\u{1}a"]);
    let valid = |value: &&str| HeaderValue::from_str(value).is_ok();
    prop::collection::vec((name, value.prop_filter("a header value", valid)), 0..4)
}

/// The values of each field, which the documentation says are compared.
fn compared(fields: &Fields) -> [Vec<&'static str>; 3] {
    ["authorization", "x-api-key", "api-key"].map(|name| {
        let same = fields.iter().filter(|field| field.0 == name);
        same.map(|field| field.1).collect()
    })
}

proptest! {
    #[test]
    fn requests_have_one_owner_exactly_if_all_fields_are_equal(a in fields(), b in fields()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let proxy = Proxy::new(by_header(), opens_session);
        let shared = runtime.block_on(is_shared(&proxy, &a, &b));
        prop_assert_eq!(shared, compared(&a) == compared(&b), "{:?} and {:?}", a, b);
    }
}
