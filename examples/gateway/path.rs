//! What a path may be to an upstream.

/// Whether an upstream may take the path for this one or for one below it. What it takes for a path of MCP must not go around
/// the rules for those, so any way of reading it will do: with or without escapes, dots, double slashes, a host behind them,
/// parameters of segments, upper case, and whatever ends a text in some languages.
pub fn leads_to(path: &str, prefix: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let decoded = decoded.to_ascii_lowercase();
    let prefix = prefix.to_ascii_lowercase();
    let prefix: Vec<_> = segments(&prefix).collect();
    let mut readings = [Some(&*decoded), behind_a_host(&decoded)]
        .into_iter()
        .flatten();
    readings.any(|path| is_below(path, &prefix))
}

/// The path in what a resolver of URLs takes for a host and a path (RFC 3986 4.2). To the URL standard a backslash is a slash, and
/// more than two are two.
fn behind_a_host(path: &str) -> Option<&str> {
    let rest = path.trim_start_matches(SLASHES);
    let slashes = path.len() - rest.len();
    (slashes > 1).then(|| &rest[rest.find(SLASHES).unwrap_or(rest.len())..])
}

fn is_below(path: &str, prefix: &[&str]) -> bool {
    let as_it_stands: Vec<_> = segments(path).filter(|segment| *segment != ".").collect();
    let mut resolved = Vec::new();
    for segment in &as_it_stands {
        match *segment {
            ".." => drop(resolved.pop()),
            segment => resolved.push(segment),
        }
    }
    as_it_stands.starts_with(prefix) || resolved.starts_with(prefix)
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
