//! What the README quotes from the source stands there.

use std::{fs, path::Path};

#[test]
fn every_quote_from_a_source_file_stands_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    // [`src/a.rs`](src/a.rs): `let quote = from(it);`
    let quotes = readme.split("](src/").skip(1).map(|after| {
        let (file, after) = after.split_once("): `").unwrap();
        let (quote, _) = after.split_once('`').unwrap();
        // In a table, a bar has to be escaped.
        (root.join("src").join(file), quote.replace("\\|", "|"))
    });
    let mut found = 0;
    for (file, quote) in quotes {
        let source = fs::read_to_string(&file).unwrap();
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let stands_there = one_line(&source).contains(&one_line(&quote));
        assert!(stands_there, "{}: {quote}", file.display());
        found += 1;
    }
    assert!(found >= 4, "the quotes are written in another way now");
}
