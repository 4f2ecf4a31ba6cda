//! The suites of privileged tests: which may run several tests at once.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Suites whose tests wait most of the time, for what the guard takes seconds for by design, and look only at what is their own.
pub(super) const WAITING: [&str; 5] =
    ["approval", "audit_witness", "egress_names", "jwks_url", "request_limits"];

/// How many tests of these run at once.
pub(super) const AT_ONCE: &str = "3";

/// The names of all suites below `tests`: those that wait, and the others.
pub(super) fn suites(tests: &Path) -> anyhow::Result<[Vec<String>; 2]> {
    let mut found = Vec::new();
    for entry in fs::read_dir(tests).with_context(|| tests.display().to_string())? {
        let path = entry?.path();
        let is_one = path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").exists();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()).filter(|_| is_one) {
            found.push(name.to_owned());
        }
    }
    found.sort();
    let (waiting, others) = found.into_iter().partition(|name| WAITING.contains(&name.as_str()));
    Ok([waiting, others])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suite_is_in_one_of_the_two_runs() {
        let [waiting, others] = suites(&crate::machine::root().join("tests/tests")).unwrap();
        assert_eq!(waiting, WAITING, "one of them is no more");
        assert!(others.contains(&"bypass".to_owned()) && others.contains(&"spec".to_owned()), "{others:?}");
        assert!(!others.iter().any(|name| WAITING.contains(&name.as_str())));
        // A folder of modules is no suite.
        assert_eq!(others.iter().filter(|name| *name == "refusal_matrix").count(), 1);
    }
}
