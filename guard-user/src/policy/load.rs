//! Reads a policy directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Digest, Policy, compile, file, packs};
use crate::config::yaml::FILE_BYTES_MAX;
use crate::config::{Problem, Problems, Server};
use crate::identity::CREDENTIALS_FILE;

impl Policy {
    /// Reads every `*.yaml` in `dir` except [`CREDENTIALS_FILE`], and checks them together. All mistakes of form are
    /// told at once; where there is none, all in names.
    pub fn load(dir: &Path, servers: &[Server]) -> Result<Self, Problems> {
        compiled(&files(dir)?, &packs::own(dir)?, servers).map(|(_, policy)| policy)
    }

    /// The same from texts that are already in memory, each with its file's name.
    pub fn from_texts(files: &[(PathBuf, String)], servers: &[Server]) -> Result<Self, Problems> {
        compiled(files, &[], servers).map(|(_, policy)| policy)
    }
}

/// The policy, and what its files say word for word.
pub(super) fn compiled(
    files: &[(PathBuf, String)],
    own_packs: &[(PathBuf, String)],
    servers: &[Server],
) -> Result<(file::Document, Policy), Problems> {
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    let mut problems = Problems::default();
    let mut document = file::Document::default();
    for (path, text) in &files {
        problems.append(file::read(path, text, &mut document));
    }
    // Names that were not read for another mistake would be told as unknown: one cause, two messages.
    let (used, found) = packs::bind(&mut document, own_packs);
    problems.append(found);
    let document = problems.or(document)?;
    let policy = compile::compile(&document, servers, digest(&files, &used))?;
    Ok((document, policy))
}

/// Every policy file of `dir`, or everything that keeps one from being read.
pub(super) fn files(dir: &Path) -> Result<Vec<(PathBuf, String)>, Problems> {
    let files = files_in(dir)?;
    if files.is_empty() {
        let problem = Problem::of_file(dir, "there is no policy file in this directory");
        return Err(problem
            .with_hint("add one such as agents.yaml; without any, every call is denied")
            .into());
    }
    Ok(files)
}

/// The same where there may be none.
pub(super) fn files_in(dir: &Path) -> Result<Vec<(PathBuf, String)>, Problems> {
    let mut problems = Problems::default();
    let mut files = Vec::new();
    for path in paths(dir)? {
        match text(&path) {
            Ok(text) => files.push((path, text)),
            Err(problem) => problems.push(problem),
        }
    }
    files.sort();
    problems.or(files)
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let unreadable = |error: std::io::Error| {
        let problem = Problem::of_file(dir, format!("the policy directory cannot be read: {error}"));
        match error.kind() {
            ErrorKind::NotFound => problem.with_hint("create it, or set policy_dir in guard.yaml"),
            _ => problem,
        }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "yml") {
            let problem = Problem::of_file(&path, "only files that end in .yaml are read");
            return Err(problem.with_hint("rename it to .yaml, or to something else if it is not policy"));
        }
        let is_hidden = name.to_string_lossy().starts_with('.');
        if path.extension().is_some_and(|extension| extension == "yaml")
            && name != CREDENTIALS_FILE
            && !is_hidden
        {
            paths.push(path);
        }
    }
    Ok(paths)
}

pub(super) fn text(path: &Path) -> Result<String, Problem> {
    let unreadable = |error| Problem::of_file(path, format!("the file cannot be read: {error}"));
    let bytes = crate::config::read_bounded(path, FILE_BYTES_MAX).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::of_file(path, format!("the file is not UTF-8 (at byte {at})"))
    })
}

/// Lengths go in before contents, so that no two sets of files have one digest.
fn digest(files: &[&(PathBuf, String)], packs: &BTreeMap<String, &str>) -> Digest {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    for (path, text) in files {
        part(path.file_name().unwrap_or_default().as_encoded_bytes());
        part(text.as_bytes());
    }
    // No file's name has a slash.
    for (name, text) in packs {
        part(format!("packs/{name}").as_bytes());
        part(text.as_bytes());
    }
    Digest(hash.finalize().into())
}
