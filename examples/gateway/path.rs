//! Decides whether an upstream may interpret a path as an MCP path.

/// Whether an upstream may interpret `path` as `prefix` or as a path below it.
///
/// A path that the upstream treats as MCP must not bypass the MCP rules, so any interpretation counts: with or without
/// percent-decoding, dot segments, repeated slashes, a host after two slashes, segment parameters, upper case, and characters that
/// end a string in some languages.
pub fn leads_to(path: &str, prefix: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let decoded = decoded.to_ascii_lowercase();
    let prefix = prefix.to_ascii_lowercase();
    let prefix: Vec<_> = segments(&prefix).collect();
    let mut readings = [Some(&*decoded), path_after_host(&decoded)]
        .into_iter()
        .flatten();
    readings.any(|path| is_below(path, &prefix))
}

/// The path after the host, if a URL resolver reads `path` as a host and a path (`//host/path`, RFC 3986 4.2). The URL standard
/// treats a backslash as a slash, and more than two slashes as two.
fn path_after_host(path: &str) -> Option<&str> {
    let rest = path.trim_start_matches(SLASHES);
    let slashes = path.len() - rest.len();
    (slashes > 1).then(|| &rest[rest.find(SLASHES).unwrap_or(rest.len())..])
}

fn is_below(path: &str, prefix: &[&str]) -> bool {
    let unresolved: Vec<_> = segments(path).filter(|segment| *segment != ".").collect();
    let mut resolved = Vec::new();
    for segment in &unresolved {
        match *segment {
            ".." => drop(resolved.pop()),
            segment => resolved.push(segment),
        }
    }
    unresolved.starts_with(prefix) || resolved.starts_with(prefix)
}

const SLASHES: [char; 2] = ['/', '\\'];

fn segments(path: &str) -> impl Iterator<Item = &str> {
    let segments = path.split(SLASHES);
    let names = segments.map(|segment| {
        let end = |c: char| c.is_ascii_control() || [';', '?', '#'].contains(&c);
        segment
            .split(end)
            .next()
            .unwrap_or_default()
            .trim_end_matches(' ')
    });
    names.filter(|name| !name.is_empty())
}
