//! `mcp-guard explain`

mod known;
mod report;
mod windows;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use jiff::Timestamp;

use super::output;
use crate::config::yaml::FILE_BYTES_MAX;
use crate::config::{Config, Overrides, read_bounded};
use crate::policy::{Asked, What, Written};
use crate::rpc::{Json, json};
use crate::types::{AgentName, LabelName, ProfileName, ServerName, UserName, Within};
use report::Report;

/// A file has a mistake, or a name is not in the files.
pub(super) const WRONG_INPUT: u8 = 2;

/// Explain what the policy says about a call: the decision, and every rule that matches or nearly does
///
/// Read from the files, as `check` reads them: no guard needs to run, and nothing is called or counted. Where a guard runs and may be
/// asked, the present state of the velocity windows is told too. Exit code 0 whatever the decision; 2 if a file has a
/// mistake or a name is not there.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Who calls: an agent of the policy
    #[arg(long, value_name = "NAME", value_parser = AgentName::parse)]
    agent: AgentName,
    /// As which of its profiles; not set here: the first of its entry
    #[arg(long, value_name = "NAME", value_parser = ProfileName::parse)]
    profile: Option<ProfileName>,
    /// Whom: a server of guard.yaml
    #[arg(long, value_name = "NAME", value_parser = ServerName::parse)]
    server: ServerName,
    #[command(flatten)]
    target: Target,
    /// The call's arguments: a JSON text, @FILE, or - for standard input; read as strictly as the guard reads a request
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with_all = ["resource", "method", "server_request"], allow_hyphen_values = true)]
    arguments: Option<String>,
    /// When, such as 2026-11-22T09:30:00Z, for conditions on the time; not set here: now. Where a call comes from is not known here, so
    /// that a rule with a `source` cannot be judged
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// For whom the agent works, as its token would say; not set here: for nobody
    #[arg(long, value_name = "NAME", value_parser = UserName::parse)]
    user: Option<UserName>,
    /// The label of what the agent has read before, such as confidential, for flow rules and conditions on the mark; not set here: the
    /// lowest
    #[arg(long, value_name = "LABEL", value_parser = LabelName::parse)]
    mark: Option<LabelName>,
    /// In a session that has had so many calls before, for conditions on the session; not set, as --session-minutes: without a session
    #[arg(long, value_name = "NUMBER")]
    session_calls: Option<u64>,
    /// In a session that is so old
    #[arg(long, value_name = "NUMBER")]
    session_minutes: Option<u64>,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// A call of this tool
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// Reading this resource, or subscribing to it
    #[arg(long, value_name = "URI")]
    resource: Option<String>,
    /// Getting this prompt
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// A method that names nothing, such as tools/list
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// What the server asks of its client, such as sampling/createMessage
    #[arg(long, value_name = "METHOD")]
    server_request: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let written = Written::load(&config.policy_dir, &config.servers)?;
    let arguments = arguments(args.arguments, &config)?;
    let mut asked = args.target.asked(&args.agent, args.profile, args.server, arguments)?;
    asked.moment = Some(args.at.unwrap_or_else(Timestamp::now));
    asked.user = args.user;
    asked.read = args.mark.into_iter().collect();
    asked.session = match (args.session_calls, args.session_minutes) {
        (None, None) => Within::Nothing,
        (calls, minutes) => Within::of(calls.unwrap_or_default(), minutes.unwrap_or_default()),
    };
    if let Some((_, what, hint)) = written.unknown_name(&asked) {
        let hint = hint.map_or(String::new(), |hint| format!("; {hint}"));
        bail!("{what}{hint}");
    }
    let known_note = known::ask(&config, &written, &mut asked);
    let explanation = written.explain(&asked);
    let windows = windows::of(&config, &written, &asked, &explanation.decision);
    let report = Report::new(&written, &asked, &explanation, windows, known_note);
    if args.json {
        output::print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        output::print(&report.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Target {
    fn asked(
        self,
        agent: &AgentName,
        profile: Option<ProfileName>,
        server: ServerName,
        arguments: Option<Json>,
    ) -> anyhow::Result<Asked> {
        let Self { tool, resource, prompt, method, server_request } = self;
        // In the order of `What::KINDS`.
        let named = [tool, resource, prompt, method, server_request];
        let mut named = What::KINDS.into_iter().zip(named).filter_map(|(kind, name)| Some((kind, name?)));
        let (kind, name) = named.next().context("name what is called")?;
        match What::parse(kind, &name) {
            Ok(what) => Ok(Asked {
                agent: agent.clone(),
                profile,
                server,
                what,
                arguments,
                moment: None,
                known: None,
                risk: None,
                user: None,
                read: Vec::new(),
                session: Within::Nothing,
            }),
            Err((what, hint)) => bail!("{what}; {hint}"),
        }
    }
}

fn arguments(text: Option<String>, config: &Config) -> anyhow::Result<Option<Json>> {
    let Some(text) = text else { return Ok(None) };
    let bytes_max = config.limits.body_bytes_max;
    let bytes = if text == "-" {
        let mut bytes = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        std::io::stdin().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
        bytes
    } else if let Some(file) = text.strip_prefix('@') {
        read_bounded(Path::new(file), bytes_max.min(FILE_BYTES_MAX))
            .with_context(|| format!("cannot read the arguments in {file}"))?
    } else {
        text.into_bytes()
    };
    if bytes.len() > bytes_max {
        bail!("the arguments have more than {bytes_max} bytes (limits.body_bytes_max)");
    }
    let value = json::parse(&bytes, config.limits.json_depth_max).context("--arguments is not taken")?;
    if value.as_object().is_none() {
        bail!("--arguments is no JSON object; write for example '{{\"amount\": 25}}'");
    }
    Ok(Some(value))
}
