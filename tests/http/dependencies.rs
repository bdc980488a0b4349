//! The versions of the dependencies in the lock file.

/// A version without its pre-release and build parts.
type Version = [u64; 3];

fn version(text: &str) -> Version {
    let mut numbers = text
        .split(['.', '-', '+'])
        .map(|number| number.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap())
}

/// The locked versions of a package.
fn locked(package: &str) -> Vec<Version> {
    let name = format!("name = \"{package}\"\nversion = \"");
    let lock = include_str!("../../Cargo.lock");
    let packages = lock
        .split("[[package]]\n")
        .filter_map(|entry| entry.strip_prefix(&name));
    packages
        .map(|rest| version(rest.split('"').next().unwrap()))
        .collect()
}

/// `deny.toml` rejects the same versions. This test needs no other program.
#[test]
fn r66_no_locked_version_has_a_known_fault() {
    for (package, fixed) in [("hyper", [1, 10, 1]), ("h2", [0, 4, 19])] {
        let versions = locked(package);
        assert!(!versions.is_empty(), "{package} is not locked");
        for version in versions {
            assert!(version >= fixed, "{package} {version:?}");
        }
    }
    // Its compression ends a body incorrectly if the inner body ends with an empty frame.
    for version in locked("tower-http") {
        assert!(
            ![[0, 7, 0], [0, 7, 1]].contains(&version),
            "tower-http {version:?}"
        );
    }
    let manifest = include_str!("../../Cargo.toml");
    let lints = manifest.split("[lints.rust]\n").nth(1).unwrap();
    let lints = lints.split("\n[").next().unwrap();
    assert!(lints.lines().any(|lint| lint == "unsafe_code = \"forbid\""));
}
