//! What a path may be to an upstream.

/// Whether an upstream may take the path for this one or for one below it. What it takes for a path of MCP must not go around
/// the rules for those, so any way of reading it will do: with or without escapes, dots, double slashes, parameters of
/// segments, upper case, and whatever ends a text in some languages.
pub fn leads_to(path: &str, prefix: &str) -> bool {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let decoded = decoded.to_ascii_lowercase();
    let prefix = prefix.to_ascii_lowercase();
    let prefix: Vec<_> = segments(&prefix).collect();
    let as_it_stands: Vec<_> = segments(&decoded)
        .filter(|segment| *segment != ".")
        .collect();
    let mut resolved = Vec::new();
    for segment in &as_it_stands {
        match *segment {
            ".." => drop(resolved.pop()),
            segment => resolved.push(segment),
        }
    }
    as_it_stands.starts_with(&prefix) || resolved.starts_with(&prefix)
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    let segments = path.split(['/', '\\']);
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
