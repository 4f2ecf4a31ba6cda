//! What this kernel and host offer, found out by doing it: loading programs, making maps, attaching, ending a
//! connection. Version numbers are not asked; distributions change what they mean.
//!
//! Nothing of the host is touched for longer than the probe: attaching is tried with programs that change nothing,
//! in a network namespace, a mount namespace and a cgroup made for it.

mod bpf;
mod host;
mod programs;
mod sandbox;

use std::io;
use std::path::Path;

use nix::libc;
use serde::Serialize;

/// One thing that the guard uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub what: String,
    pub found: Found,
    /// Whether the guard cannot protect a port without it.
    pub needed: bool,
    /// What was seen.
    pub detail: String,
    /// What follows when it is missing, and what to do.
    pub if_missing: &'static str,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    Yes,
    No,
    /// There, but not all of it or not as it should be.
    Partly,
    /// This user may not find out.
    NeedsRoot,
}

impl Found {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Partly => "partly",
            Self::NeedsRoot => "needs root",
        }
    }
}

impl Row {
    fn needed(what: impl Into<String>, outcome: Outcome, if_missing: &'static str) -> Self {
        Self { what: what.into(), found: outcome.found, needed: true, detail: outcome.detail, if_missing }
    }

    fn useful(what: impl Into<String>, outcome: Outcome, if_missing: &'static str) -> Self {
        Self { needed: false, ..Self::needed(what, outcome, if_missing) }
    }

    /// Whether the guard cannot work here, as far as this row knows.
    pub fn is_fatal(&self) -> bool {
        self.needed && matches!(self.found, Found::No | Found::NeedsRoot)
    }
}

/// Runs every probe. Takes well under a second.
pub fn probe(state_dir: &Path) -> Vec<Row> {
    let mut rows = vec![host::capabilities()];
    rows.extend(programs::rows());
    rows.extend(sandbox::rows());
    rows.extend(host::rows(state_dir));
    rows
}

/// The row about the kernel programs in this binary; `object` is their size in bytes, or why there are none.
pub fn embedded_object(object: Result<usize, String>) -> Row {
    let outcome = match object {
        Ok(bytes) => Outcome::yes(format!("{bytes} bytes")),
        Err(reason) => Outcome::no(reason),
    };
    Row::needed("kernel programs in this binary", outcome, "nothing can be loaded; run `cargo xtask build`")
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    found: Found,
    detail: String,
}

impl Outcome {
    fn yes(detail: impl Into<String>) -> Self {
        Self { found: Found::Yes, detail: detail.into() }
    }

    fn no(detail: impl Into<String>) -> Self {
        Self { found: Found::No, detail: detail.into() }
    }

    fn partly(detail: impl Into<String>) -> Self {
        Self { found: Found::Partly, detail: detail.into() }
    }

    /// Access refused says nothing about the kernel unless root was refused.
    fn refused(step: &str, error: &io::Error) -> Self {
        let denied = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
        let found = if denied && !nix::unistd::geteuid().is_root() { Found::NeedsRoot } else { Found::No };
        Self { found, detail: format!("{step}: {error}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_needed_thing_that_is_missing_is_fatal() {
        let row =
            |found, needed| Row { what: "x".into(), found, needed, detail: String::new(), if_missing: "" };
        assert!(row(Found::No, true).is_fatal());
        assert!(row(Found::NeedsRoot, true).is_fatal());
        assert!(!row(Found::Partly, true).is_fatal());
        assert!(!row(Found::Yes, true).is_fatal());
        assert!(!row(Found::No, false).is_fatal());
    }

    #[test]
    fn a_binary_without_kernel_programs_is_told_in_its_row() {
        assert!(embedded_object(Err("none".into())).is_fatal());
        assert_eq!(embedded_object(Ok(7)).detail, "7 bytes");
    }

    #[test]
    fn every_row_says_what_follows_when_it_is_missing() {
        let rows = probe(Path::new("/var/lib/mcp-guard"));
        for row in &rows {
            assert!(!row.if_missing.is_empty() && !row.what.is_empty() && !row.detail.is_empty(), "{row:?}");
        }
        assert!(rows.len() > 20, "{}", rows.len());
    }
}
