//! `mcp-guard audit prune`

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admin::{self, Ask, ClientError};
use crate::app;
use crate::audit::{AuditLog, KEYS_FILE, Keys, Pruning, Retention, Start};
use crate::cli::output;
use crate::config::{Config, Overrides};

/// The guard waits for a signature, and for a file that is being packed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Remove the oldest files of the trail, so that what remains can still be verified
///
/// Whole files go, from the first on, and never the last. A record says what went and who wanted it, and is signed before the first file goes. Records that
/// a cursor of `audit.export_cursors` has not behind it stay, unless --force says why. Without --before, `audit.keep_days` and
/// `audit.keep_bytes` say what goes; the guard does the same by itself. Exit code: 0 also if nothing is old enough
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files whose records are all older than this: `90d`, `12h`, or a time such as 2026-11-21T05:00:00Z
    #[arg(long, value_name = "TIME", value_parser = super::since)]
    before: Option<Timestamp>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Also what was not exported; the reason is recorded
    #[arg(long, value_name = "REASON")]
    force: Option<String>,
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    if args.force.as_deref().is_some_and(|reason| reason.trim().is_empty()) {
        bail!("--force needs a reason, which is recorded");
    }
    let ask = Ask::Prune { before: args.before, force: args.force.clone() };
    let done = if args.dry_run {
        let dir = config.audit_dir();
        let keys = Keys::beside(&dir, super::prove::key_beside(&dir)?)
            .with_context(|| dir.join(KEYS_FILE).display().to_string())?;
        let uid = nix::unistd::getuid().as_raw();
        json!({ "pruned": pruning(&config, args, uid)?.plan(&dir, &keys)? })
    } else {
        match admin::ask_within(&config.admin_socket(), &ask, PATIENCE) {
            Err(ClientError::NotRunning { .. }) => alone(&config, args)?,
            done => done?,
        }
    };
    output::print(&if args.json { done.to_string() } else { words(&done["pruned"], args.dry_run) })?;
    Ok(ExitCode::SUCCESS)
}

fn pruning(config: &Config, args: &Args, uid: u32) -> anyhow::Result<Pruning> {
    let retention = Retention::from(&config.audit);
    let pruning = Pruning::by_operator(&retention, args.before, (uid, args.force.clone()));
    pruning.context(Pruning::NOTHING_SAID)
}

/// Without a guard: as one, for a moment.
fn alone(config: &Config, args: &Args) -> anyhow::Result<Value> {
    let dir = config.audit_dir();
    let uid = nix::unistd::geteuid().as_raw();
    let owner = dir.metadata().with_context(|| format!("cannot read {}", dir.display()))?.uid();
    if uid != owner {
        bail!("{} belongs to user {owner}: run this as that user, or start the guard", dir.display());
    }
    let pruning = pruning(config, args, uid)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let log = AuditLog::open_known(app::audit_options(config), &Start::new(config, None))
            .context("cannot open the audit trail")?;
        let done = log.prune(pruning).await;
        log.leave().await;
        Ok(json!({ "pruned": done? }))
    })
}

fn words(pruned: &Value, is_plan: bool) -> String {
    let number = |name: &str| pruned[name].as_u64().unwrap_or_default();
    let held = match number("held") {
        0 => String::new(),
        held => format!("\n{held} more records stay: they are not exported yet (audit.export_cursors)"),
    };
    if number("files") == 0 {
        return format!("nothing is removed: no file is old enough, or there is one alone{held}");
    }
    let verb = if is_plan { "would be removed" } else { "removed" };
    let (to, records, files, bytes) = (number("to"), number("records"), number("files"), number("bytes"));
    let lost = match number("unexported") {
        0 => String::new(),
        lost => format!("; {lost} of them were not exported"),
    };
    let seq = pruned["seq"].as_u64().map(|seq| format!(", as record {seq} says")).unwrap_or_default();
    format!("{records} records before {to} {verb}: {files} files, {bytes} bytes{seq}{lost}{held}")
}
