//! Crates and licences that must not get into a binary.

use std::collections::BTreeSet;
use std::path::Path;

use crate::command::Tool;

/// A crate, and why it is not wanted.
const BANNED: [(&str, &str); 5] = [
    ("native-tls", "TLS is rustls everywhere"),
    ("openssl", "TLS is rustls everywhere"),
    ("openssl-sys", "TLS is rustls everywhere"),
    ("ring", "cryptography is aws-lc-rs; two libraries mean two reviews"),
    ("serde_yaml", "it is no longer maintained; serde-saphyr reads YAML here"),
];

/// Licences that can be handed on under ours. A crate may name no other, not even as a choice.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Looks at what is really built for this target, not at what the lock file knows.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let tree = Tool::cargo()
        .args([
            "tree",
            "--locked",
            "--workspace",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--no-dedupe",
        ])
        .args(["--format", "{p}|{l}"])
        .dir(root)
        .read()?;
    Ok(judge(&tree))
}

/// Lines of `name version (source)|licence`.
fn judge(tree: &str) -> Vec<String> {
    let crates: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(package, licence)| (package.split(' ').next().unwrap_or(package), licence))
        .collect();
    let mut found = Vec::new();
    for (name, licence) in crates {
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            found.push(format!(
                "{name} is built: {why}; `cargo tree --workspace -i {name}` says who asks for it"
            ));
        }
        if !is_known(licence) {
            found.push(format!(
                "{name} has the licence {licence:?}; if it can be handed on, add it to {}",
                file!()
            ));
        }
    }
    found
}

/// Whether an expression such as `MIT OR (Apache-2.0 WITH LLVM-exception)` names known licences only.
fn is_known(expression: &str) -> bool {
    let mut names = expression
        .split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.'))
        .filter(|word| !matches!(*word, "" | "AND" | "OR" | "WITH"))
        .peekable();
    names.peek().is_some() && names.all(|name| LICENCES.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_crate_is_told_from_one_with_a_longer_name() {
        assert_eq!(judge("anyhow v1.0.0|MIT\nring-channel v0.1.0|MIT\n"), Vec::<String>::new());
        let found = judge("anyhow v1.0.0|MIT\nring v0.17.0|MIT\nring v0.17.0|MIT\n");
        assert!(found.len() == 1 && found[0].contains("aws-lc-rs"), "{found:?}");
    }

    #[test]
    fn licences_are_known_or_named() {
        assert!(is_known("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_known("MIT/Apache-2.0"));
        assert!(is_known("Apache-2.0 WITH LLVM-exception OR MIT"));
        assert!(!is_known(""));
        assert!(!is_known("MIT OR GPL-3.0-only"));
        let found = judge("odd v1.0.0|GPL-3.0-only\n");
        assert!(found.len() == 1 && found[0].starts_with("odd has the licence"), "{found:?}");
    }
}
