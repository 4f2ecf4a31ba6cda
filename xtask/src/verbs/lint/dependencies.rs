//! Crates that must not get into a binary.

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

/// What is really built for this target, not what the lock file knows.
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
            "--format",
            "{p}",
        ])
        .dir(root)
        .read()?;
    Ok(banned(&tree))
}

fn banned(tree: &str) -> Vec<String> {
    let built = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    BANNED
        .iter()
        .filter(|(name, _)| built(name))
        .map(|(name, why)| {
            format!("{name} is built: {why}; `cargo tree --workspace -i {name}` says who asks for it")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_crate_is_told_from_one_with_a_longer_name() {
        assert_eq!(banned("anyhow v1.0.0\nring-channel v0.1.0\n"), Vec::<String>::new());
        let found = banned("anyhow v1.0.0\nring v0.17.0 (*)\n");
        assert!(found.len() == 1 && found[0].contains("aws-lc-rs"), "{found:?}");
    }
}
