//! `mcp-guard audit hash`

use std::io::{Read, stdin};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Map, Value};

use super::Place;
use crate::audit::{DIGEST_KEY_FILE, Digester};
use crate::cli::output;
use crate::rpc::{Json, json};

/// Longest value on standard input.
const VALUE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Print the digest that records have of a value, to find the calls that had it
///
/// Records have each argument of a call as a keyed digest. This makes the same from VALUE: as a text, and where VALUE is a
/// number, `true`, `false` or `null`, as that, too. It needs the key beside the trail (`digest-key`), so run it as root.
/// `audit query --argument VALUE` finds the calls at once. With --result, it is the digest of an answer, which `audit query --result DIGEST` finds.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the argument was; `-` reads it from standard input, as it is, so that no shell's history has it
    #[arg(value_name = "VALUE")]
    value: String,
    /// VALUE is what a call was answered with: its `result`, or its `error`, as it was passed to the client, byte for byte
    #[arg(long)]
    result: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let value = match args.value.as_str() {
        "-" => {
            let mut text = String::new();
            stdin().take(VALUE_BYTES_MAX).read_to_string(&mut text).context("cannot read standard input")?;
            text
        }
        value => value.to_owned(),
    };
    let dir = args.place.dir()?;
    let digests = if args.result { vec![("result", result(&dir, &value)?)] } else { digests(&dir, &value)? };
    if args.place.json {
        let digests: Map<_, _> =
            digests.into_iter().map(|(kind, digest)| (kind.to_owned(), digest.into())).collect();
        output::print(&Value::Object(digests).to_string())?;
    } else {
        let lines: Vec<_> = digests.iter().map(|(kind, digest)| format!("{digest}  {kind}")).collect();
        output::print(&lines.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn digester(dir: &Path) -> anyhow::Result<Digester> {
    Digester::read(dir).with_context(|| {
        let path = dir.join(DIGEST_KEY_FILE);
        format!(
            "cannot read the key of digests, {}; run this as root where the trail was written",
            path.display()
        )
    })
}

/// The digest of an answer. Blanks around it are not part of it.
fn result(dir: &Path, json: &str) -> anyhow::Result<String> {
    let json = json.trim();
    serde_json::from_str::<serde::de::IgnoredAny>(json)
        .context("it is not JSON; give the `result` or `error` of the answer as it came")?;
    Ok(digester(dir)?.result(json.as_bytes()))
}

/// What `value` may be, each with its digest.
pub(super) fn digests(dir: &Path, value: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
    let digester = digester(dir)?;
    let kind = |value: &Json| match value {
        Json::Null => Some("null"),
        Json::Bool(_) => Some("boolean"),
        Json::Number(_) => Some("number"),
        Json::String(_) | Json::Array(_) | Json::Object(_) => None,
    };
    let mut digests = vec![("text", digester.value(&Json::String(value.to_owned())))];
    if let Ok(value) = json::parse(value.as_bytes(), 1)
        && let Some(kind) = kind(&value)
    {
        digests.push((kind, digester.value(&value)));
    }
    Ok(digests)
}
