//! `mcp-guard policy packs`

use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use crate::cli::output;
use crate::config::Overrides;
use crate::config::problem::suggest;
use crate::policy::packs::{self, Meaning, Pack};

/// List the packs that a policy may bind to a server, or show what one says
///
/// Those that come with the guard and those in `packs/` of the policy directory, if guard.yaml can be read. Exit code 0; 2 if a file has a
/// mistake or there is no such pack.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what this one says
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn run(args: &Args, config: &Overrides, json: bool) -> anyhow::Result<ExitCode> {
    let config = config.load().ok();
    let packs = packs::all(config.as_ref().map(|config| config.policy_dir.as_path()))?;
    let Some(name) = &args.name else {
        let text =
            if json { serde_json::to_string_pretty(&json!({ "packs": packs }))? } else { list(&packs) };
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some(pack) = packs.iter().find(|pack| pack.name == *name) else {
        let hint = suggest(name, packs.iter().map(|pack| pack.name.as_str())).unwrap_or_default();
        bail!("there is no pack {name:?}; {hint}");
    };
    let text = if json { serde_json::to_string_pretty(pack)? } else { show(pack) };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(packs: &[Pack]) -> String {
    let mut table = output::table(["PACK", "FROM", "INTENTS", "TARGETS", "ABOUT"]);
    for pack in packs {
        let mut intents: Vec<_> = pack.meanings.iter().map(|meaning| &meaning.intent).collect();
        intents.dedup();
        table.add_row([
            output::plain(&pack.name),
            if pack.shipped { "the guard" } else { "your own" }.to_owned(),
            intents.len().to_string(),
            pack.meanings.len().to_string(),
            output::plain(&pack.about),
        ]);
    }
    table.to_string()
}

fn show(pack: &Pack) -> String {
    let mut table = output::table(["INTENT", "TARGET", "WHEN", "CLASS", "RISK", "FACTS"]);
    for meaning in &pack.meanings {
        let Meaning { intent, kind, name, when, class, base, adds, facts } = meaning;
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { output::plain(&text) };
        let risk: Vec<_> =
            base.iter().map(|base| format!("base {base}")).chain(adds.iter().cloned()).collect();
        table.add_row([
            intent.clone(),
            output::plain(&format!("{kind} {name}")),
            or_dash(when.join(", ")),
            class.unwrap_or("unknown").to_owned(),
            or_dash(risk.join("; ")),
            or_dash(facts.join(", ")),
        ]);
    }
    let about = output::plain(&pack.about);
    format!(
        "{}: {about}\n\n{table}\n\nIt grants nothing. Bind it: packs: [{{pack: {}, server: NAME}}]",
        pack.name, pack.name
    )
}
