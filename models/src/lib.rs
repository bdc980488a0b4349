//! The package of the tests in `tests/`, which drive `tower_sse_proxy::replay::model`.
