//! `mcp-guard audit prove`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::{Place, read_key};
use crate::audit::{Claim, VERIFIER_KEY_FILE, VerifierKey, prove};
use crate::cli::output;

/// Prove that one record is in the trail, or that the trail goes on from an older checkpoint
///
/// The proof can be checked without the trail, by whoever has its key: `mcp-guard-verify --proof FILE --key KEY`. That of a
/// record (C2SP tlog-proof) carries the record, so it shows that one and nothing else of the trail. That of a checkpoint is what
/// a C2SP witness is posted. Both are about the latest signed checkpoint, which follows a record within a second.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The record, by its `seq`
    #[arg(required_unless_present = "since", conflicts_with = "since")]
    seq: Option<u64>,
    /// The file of the older checkpoint
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<PathBuf>,
    /// Write it to this file, which must not be there, instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The trail's verifier key, or a file that holds it [default: the one beside the trail]
    #[arg(long, value_name = "FILE_OR_KEY")]
    key: Option<String>,
    #[command(flatten)]
    pub(super) place: Place,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dir = args.place.dir()?;
    let key = match &args.key {
        Some(key) => read_key(key)?,
        None => key_beside(&dir)?,
    };
    let proof = match (args.seq, &args.since) {
        (Some(seq), _) => prove(&dir, &key, Claim::Record(seq))?,
        (None, Some(path)) => {
            let older = fs::read_to_string(path).with_context(|| format!("--since {}", path.display()))?;
            prove(&dir, &key, Claim::Since(&older))?
        }
        (None, None) => anyhow::bail!("say which record, or --since which checkpoint"),
    };
    match &args.output {
        Some(path) => {
            let mut file =
                fs::File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
            std::io::Write::write_all(&mut file, proof.as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
            if args.place.json {
                output::print(&json!({ "proof": path }).to_string())?;
            } else {
                output::print(&format!(
                    "written: {}\ncheck it with mcp-guard-verify --proof {0} --key KEY",
                    path.display()
                ))?;
            }
        }
        None if args.place.json => output::print(&json!({ "proof": proof }).to_string())?,
        None => output::print(proof.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn key_beside(dir: &Path) -> anyhow::Result<VerifierKey> {
    let path = dir.join(VERIFIER_KEY_FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    VerifierKey::parse(&text).with_context(|| path.display().to_string())
}
