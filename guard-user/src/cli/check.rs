//! `mcp-guard check`

use std::collections::BTreeMap;
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use super::output::{self, print};
use crate::config::{Config, Overrides, Problem, Problems};
use crate::policy::{Effect, Grant};
use crate::rules::Rules;
use crate::types::{AgentName, ProfileName};
use crate::upstream::Credentials;

/// Check guard.yaml and the policy files, and say what is wrong with them
///
/// guard.yaml comes first: a key or a value in it that cannot be read hides what stands behind it. When it is good,
/// all mistakes of form in the policy files and the credentials are told at once; names that rules use (of agents, intents, servers,
/// labels) are checked when these are mended. Exit code 0: no mistake, 1 otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    /// What must be put right before the guard takes the files.
    problems: Vec<Problem>,
    /// What the guard takes and people may not have meant.
    warnings: Vec<String>,
    /// SHA-256 of the policy files.
    policy: Option<String>,
    /// SHA-256 of the configuration, as the record of a start has it.
    config: Option<String>,
    grants: Vec<Grant>,
    /// What each agent has to show, in the words of records, such as `token+process`.
    agents: BTreeMap<AgentName, String>,
    #[serde(skip)]
    summary: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { config, json } = args;
    let report = report(&config);
    if json {
        print(&serde_json::to_string_pretty(&report)?)?;
    } else if report.ok {
        let mut text = table(&report.grants);
        text += &known_by(&report.agents);
        for warning in &report.warnings {
            text.extend(["warning: ", warning, "\n"]);
        }
        text += &report.summary;
        print(&text)?;
    } else {
        report.problems.iter().for_each(|problem| eprintln!("{problem}"));
        let count = some(report.problems.len(), "problem");
        eprintln!(
            "{count}; a running guard goes on with what it has; it would not start again with these files, and the ports would stay closed"
        );
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(overrides: &Overrides) -> Report {
    let config = match overrides.load() {
        Ok(config) => config,
        Err(problems) => return failed(&problems),
    };
    let (mut problems, notes) = Credentials::check(&config.servers);
    match Rules::load(&config) {
        Ok(rules) if problems.is_empty() => good(&config, &rules, &notes),
        Ok(_) => failed(&problems),
        Err(found) => {
            problems.append(found);
            failed(&problems)
        }
    }
}

fn failed(problems: &Problems) -> Report {
    Report {
        ok: false,
        problems: problems.iter().cloned().collect(),
        warnings: Vec::new(),
        policy: None,
        config: None,
        grants: Vec::new(),
        agents: BTreeMap::new(),
        summary: String::new(),
    }
}

fn good(config: &Config, rules: &Rules, notes: &[String]) -> Report {
    let Rules { policy, credentials, issuers, .. } = rules;
    let now = Timestamp::now();
    let mut warnings = [issuers.notes(), rules.clients.notes(), notes].concat();
    warnings.extend(policy.warnings().iter().map(ToString::to_string));
    for credential in credentials.list() {
        if !policy.has_entry(credential.agent(), credential.client(), credential.profile()) {
            warnings.push(format!(
                "credential {} is for {} as {} with profile {}, which the policy does not have; `mcp-guard tokens revoke {0}`",
                credential.id(),
                credential.agent(),
                credential.client(),
                credential.profile(),
            ));
        }
    }
    let mut agents: Vec<_> = policy.agents().map(|(agent, _)| agent).collect();
    agents.sort();
    for agent in agents {
        let issued = credentials.list().into_iter().filter(|credential| credential.agent() == agent);
        let (expired, good): (Vec<_>, Vec<_>) = issued.partition(|credential| credential.is_expired(now));
        match (policy.needs_secret(agent), good.is_empty(), expired.is_empty()) {
            (true, true, true) => {
                warnings.push(format!("{agent} has no credential yet; `mcp-guard tokens issue --agent {agent}`"));
            }
            (true, true, false) => {
                warnings.push(format!("every credential of {agent} has expired; `mcp-guard tokens rotate --agent {agent}`"));
            }
            (false, false, _) => warnings.push(format!(
                "{agent} needs no secret, so its credentials are refused; `mcp-guard tokens list` shows which to revoke"
            )),
            _ => {}
        }
        let may_connect = |profile: Option<&ProfileName>| {
            config.servers.iter().any(|server| policy.may_connect(agent, profile, &server.name))
        };
        if !may_connect(None) {
            warnings.push(format!("{agent} is allowed nothing on any server"));
            continue;
        }
        let profiles = policy.agent(agent).into_iter().flat_map(|entry| &entry.profiles);
        for profile in profiles.filter(|profile| !may_connect(Some(profile))) {
            warnings.push(format!("the profile {profile} leaves {agent} nothing on any server"));
        }
    }
    let is_silent = policy.known_by_process().next().is_some();
    for server in config.servers.iter().filter(|server| server.forward_authorization && !is_silent) {
        warnings.push(format!(
            "{} has forward_authorization, and every agent needs Authorization for its secret or token: nothing is forwarded before one has `needs: [process]`",
            server.name
        ));
    }
    let digest = policy.digest().to_string();
    let summary = format!(
        "ok: {}, {}, {}, {}, policy {}",
        some(config.servers.len(), "server"),
        some(policy.agents().count(), "agent"),
        some(policy.rule_count(), "rule"),
        some(credentials.len(), "credential"),
        output::short(&digest),
    );
    Report {
        ok: true,
        problems: Vec::new(),
        warnings,
        policy: Some(digest),
        config: Some(config.digest()),
        grants: policy.grants(),
        agents: policy.agents().map(|(agent, entry)| (agent.clone(), entry.needs.words())).collect(),
        summary,
    }
}

fn some(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Whom the guard knows by more or other than a secret; most agents have that alone.
fn known_by(agents: &BTreeMap<AgentName, String>) -> String {
    if agents.values().all(|words| words == "client_secret") {
        return String::new();
    }
    let mut table = output::table(["agent", "known by"]);
    for (agent, words) in agents {
        table.add_row([agent.to_string(), words.clone()]);
    }
    format!("{table}\n")
}

/// Agents across, tools down.
fn table(grants: &[Grant]) -> String {
    let mut agents: Vec<_> = grants.iter().map(|grant| &grant.agent).collect();
    agents.dedup();
    let mut rows: Vec<_> = grants.iter().map(|grant| (&grant.server, &grant.tool)).collect();
    rows.sort();
    rows.dedup();
    if rows.is_empty() {
        return String::new();
    }
    let heading = ["server".to_owned(), "tool".to_owned()];
    let mut table = output::table(heading.into_iter().chain(agents.iter().map(ToString::to_string)));
    for (server, tool) in rows {
        let effects = agents.iter().map(|agent| {
            let found = grants.iter().find(|g| g.agent == **agent && g.server == *server && g.tool == *tool);
            found.map_or_else(|| Effect::Deny.as_str().to_owned(), Grant::cell)
        });
        table.add_row([server.to_string(), tool.clone()].into_iter().chain(effects));
    }
    let is_conditional = grants.iter().any(|grant| grant.conditional);
    let legend = if is_conditional { "* depends on conditions; `mcp-guard explain` tells\n" } else { "" };
    format!("{table}\n{legend}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The shipped example in a directory of its own.
    fn example() -> (tempfile::TempDir, Overrides) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/customer-ops");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        for file in ["guard.yaml", "policies/agents.yaml", "policies/seed.yaml"] {
            std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
        }
        let config = dir.path().join("guard.yaml");
        (dir, Overrides { config, ..Overrides::default() })
    }

    #[test]
    fn a_good_policy_is_shown_as_a_table_of_agents_and_tools() {
        let (_dir, overrides) = example();
        let report = report(&overrides);
        assert!(report.ok);
        let table = table(&report.grants);
        let row = |tool: &str| {
            let line = table.lines().find(|line| line.contains(tool)).unwrap();
            line.split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row("tool"), ["analytics-agent", "lookup-agent", "support-agent"]);
        assert_eq!(row("process_refund"), ["deny", "deny", "escalate"]);
        assert_eq!(row("read_customer"), ["allow", "allow", "allow"]);
        assert_eq!(row("send_email"), ["deny", "deny", "allow*"]);
        assert_eq!(row("update_account"), ["deny", "deny", "deny"]);
        assert_eq!(report.warnings.len(), 3, "no agent has a credential: {:?}", report.warnings);
    }

    #[test]
    fn mistakes_in_policies_and_credentials_are_told_together() {
        let (dir, overrides) = example();
        std::fs::write(dir.path().join("policies/bad.yaml"), "polices: []").unwrap();
        std::fs::write(dir.path().join("policies/credentials.yaml"), "credentals: []").unwrap();
        std::fs::write(dir.path().join("policies/.draft.yaml"), "not read").unwrap();
        let report = report(&overrides);
        assert!(!report.ok);
        let said: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("bad.yaml:1:1: unknown key \"polices\""), "{said:?}");
        assert!(said[1].contains("credentials.yaml:1:1: unknown key \"credentals\""), "{said:?}");
    }

    #[test]
    fn a_yml_file_and_an_empty_directory_are_told() {
        let (dir, overrides) = example();
        let rename = |from: &str, to: &str| {
            std::fs::rename(dir.path().join("policies").join(from), dir.path().join("policies").join(to))
                .unwrap();
        };
        rename("seed.yaml", "seed.yml");
        assert!(report(&overrides).problems[0].to_string().contains("only files that end in .yaml are read"));
        rename("seed.yml", "seed.off");
        rename("agents.yaml", "agents.off");
        assert!(report(&overrides).problems[0].to_string().contains("there is no policy file"));
    }
}
