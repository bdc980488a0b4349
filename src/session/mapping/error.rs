//! The error of an invalid setting.

use std::{error::Error, fmt};

use crate::session::InvalidCookieName;

/// The error of a setting of [`SessionMapping`](super::SessionMapping). `Display` shows the invalid text and the form that would
/// be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingError {
    /// [`in_cookie`](super::SessionMapping::in_cookie): no cookie can have this name.
    CookieName(InvalidCookieName),
    /// [`in_query`](super::SessionMapping::in_query): the name is empty.
    EmptyParameterName,
    /// [`in_data`](super::SessionMapping::in_data): the text is not a JSON Pointer.
    JsonPointer(Box<str>),
    /// [`allow_upstream_origin`](super::SessionMapping::allow_upstream_origin): the text is not an origin.
    Origin(Box<str>),
    /// [`mount_path`](super::SessionMapping::mount_path): the text is not an absolute path.
    MountPath(Box<str>),
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MappingError::CookieName(error) => error.fmt(f),
            MappingError::EmptyParameterName => f.write_str(
                "invalid query parameter name \"\": it must have at least one character",
            ),
            MappingError::JsonPointer(pointer) => write!(
                f,
                "invalid JSON Pointer {pointer:?}: it must be empty or start with `/`, and have `0` or `1` after each `~`, as in `/session/id`"
            ),
            MappingError::Origin(origin) => write!(
                f,
                "invalid origin {origin:?}: it must have a scheme and a host and no path, as in `http://10.0.0.7:9000`"
            ),
            MappingError::MountPath(path) => write!(
                f,
                "invalid mount path {path:?}: it must be empty or start with `/`, without `?` and `#`, as in `/tools`"
            ),
        }
    }
}

impl Error for MappingError {}

impl From<InvalidCookieName> for MappingError {
    fn from(error: InvalidCookieName) -> Self {
        MappingError::CookieName(error)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::super::SessionMapping;

    fn none() -> SessionMapping {
        SessionMapping::none()
    }

    #[test]
    fn an_invalid_setting_is_an_error_that_shows_it_and_a_valid_form() {
        for (result, shown, example) in [
            (none().in_cookie("s id"), "\"s id\"", "visible ASCII"),
            (SessionMapping::cookie(""), "\"\"", "visible ASCII"),
            (none().in_cookie("sid=1"), "\"sid=1\"", "without `=`"),
            (none().in_cookie("s;id"), "\"s;id\"", "`;`"),
            (none().in_query(""), "\"\"", "at least one character"),
            (
                none().in_data("session/id"),
                "\"session/id\"",
                "/session/id",
            ),
            (none().in_data("$.id"), "\"$.id\"", "/session/id"),
            (none().in_data("/a~b"), "\"/a~b\"", "/session/id"),
            (none().in_data("/a~"), "\"/a~\"", "/session/id"),
            (
                none().allow_upstream_origin("10.0.0.7:9000"),
                "\"10.0.0.7:9000\"",
                "http://10.0.0.7:9000",
            ),
            (
                none().allow_upstream_origin("http://upstream/sse"),
                "\"http://upstream/sse\"",
                "no path",
            ),
            (none().mount_path("tools"), "\"tools\"", "/tools"),
            (none().mount_path("/tools?a"), "\"/tools?a\"", "without `?`"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(shown) && error.contains(example), "{error}");
        }
    }

    #[test]
    fn valid_settings_are_accepted() {
        let mapping = SessionMapping::header(HeaderName::from_static("x-session"));
        let mapping = mapping.in_cookie("__Host-sid[0]").unwrap();
        let mapping = mapping.in_query("sid").unwrap();
        let mapping = mapping.in_data("").unwrap().in_data("/a~0b/~1").unwrap();
        let mapping = mapping
            .allow_upstream_origin("http://upstream:80/")
            .unwrap();
        assert_eq!(mapping.upstream_origins, ["http://upstream"]);
        for (path, prefix) in [
            ("", ""),
            ("/", ""),
            ("/tools", "/tools"),
            ("/tools/", "/tools"),
        ] {
            let mapping = mapping.clone().mount_path(path).unwrap();
            assert_eq!(mapping.mount_path, prefix);
        }
    }
}
