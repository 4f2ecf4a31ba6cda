//! `mcp-guard audit checkpoints`

use std::process::ExitCode;

use anyhow::Context;

use crate::audit::{Agreement, Survey, Surveyed, survey};
use crate::cli::output;
use crate::config::Overrides;

/// Some copy denies the trail.
pub(in crate::cli) const DENIED: u8 = 2;

/// Show the copies of the trail's checkpoint, and whether the trail agrees with each. Exit code: 0 it does, 2 not, 3
/// unreadable
///
/// It reads the files here: the trail's own checkpoint, the copies, and what witnesses signed last. The journal and others
/// that checkpoints are sent to are not asked; `status` says whether they arrive there.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let found = survey(&config);
    let found =
        found.with_context(|| format!("cannot read the trail in {}", config.audit_dir().display()))?;
    if args.json {
        output::print(&serde_json::to_string(&found)?)?;
    } else {
        output::print(&show(&found))?;
    }
    Ok(ExitCode::from(if found.agrees() { 0 } else { DENIED }))
}

fn show(found: &Survey) -> String {
    let mut table = output::table(["KIND", "WHERE", "RECORDS", "AGE", "TRAIL"]);
    for copy in &found.copies {
        table.add_row([
            copy.kind.to_owned(),
            output::plain(&copy.place),
            copy.size.map_or("-".into(), |size| size.to_string()),
            copy.age_seconds.map_or("-".into(), |age| format!("{age} s")),
            words(copy, found.records),
        ]);
    }
    let verdict = if found.agrees() {
        "AGREED   no copy here denies the trail (`audit verify` says whether the trail is sound)"
    } else {
        "DENIED   keep the directory as evidence; docs/operations.md says what to do"
    };
    format!("{} records in {}\n\n{table}\n{verdict}", found.records, found.dir.display())
}

fn words(copy: &Surveyed, records: u64) -> String {
    let error = output::plain(copy.error.as_deref().unwrap_or_default());
    match copy.standing {
        Agreement::Agrees => "agrees".into(),
        Agreement::Other => output::red("OTHER RECORDS stand in their place"),
        Agreement::Fewer => output::red(&format!("FEWER: it has {records}")),
        Agreement::Pruned => "pruned: not compared".into(),
        Agreement::LaterKey => output::red(
            "LATER KEY: no key here signed it; the trail was put back, or that file is not the guard's",
        ),
        Agreement::Unsigned => output::red(&format!("NOT SIGNED BY THE WITNESS: {error}")),
        Agreement::Foreign => output::red(&format!("NOT OF THIS TRAIL: {error}")),
        Agreement::Missing => "not there".into(),
        Agreement::Unreadable => format!("unreadable: {error}"),
    }
}
