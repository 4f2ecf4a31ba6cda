//! `mcp-guard tokens`

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp, Unit};
use serde_json::json;

use super::output::{self, print};
use crate::config::problem::suggest;
use crate::config::{Config, Overrides, Reload};
use crate::identity::{self, Credential, Credentials, Issued, Recipient, Rotated};
use crate::policy::Policy;
use crate::types::ProfileName;

/// Issue credentials for agents
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: Overrides,
    /// Print JSON, also on an error
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a credential, and print its secret this once with a client configuration to paste
    Issue {
        /// The agent, as the policy names it
        #[arg(long)]
        agent: String,
        /// The client, if not to be taken from the agent's entry
        #[arg(long)]
        client: Option<String>,
        /// One of the agent's profiles [default: its first]
        #[arg(long)]
        profile: Option<String>,
        /// How long it is good for, such as 15m, 8h or 30d [default: until it is revoked]
        #[arg(long, value_parser = duration)]
        ttl: Option<SignedDuration>,
    },
    /// Make the next credential of an agent; those that it has stay good for a while
    Rotate {
        /// The agent, as the policy names it
        #[arg(long)]
        agent: String,
        /// One of the agent's profiles [default: its first]
        #[arg(long)]
        profile: Option<String>,
        /// How long the new one is good for [default: as long as the last one was made for]
        #[arg(long, value_parser = duration)]
        ttl: Option<SignedDuration>,
        /// How long the old ones stay good
        #[arg(long, default_value = "1h", value_parser = duration)]
        overlap: SignedDuration,
    },
    /// Show what was issued, without secrets
    List,
    /// Make a credential worthless
    Revoke {
        /// As `list` shows it, such as c-0123456789ab
        id: String,
    },
}

/// How a running guard learns of what has changed.
fn learns(config: &Config) -> &'static str {
    match config.reload {
        Reload::Signal => "A running guard learns of this with `mcp-guard reload`.",
        Reload::OnChange => "A running guard learns of this by itself (`reload: on_change`).",
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    match args.command {
        Command::Issue { agent, client, profile, ttl } => {
            let policy = policy(&config)?;
            let whom = entry(&policy, &agent, client.as_deref(), profile.as_deref())?;
            let now = Timestamp::now();
            let issued = identity::issue(&config.policy_dir, whom, now, end(now, ttl)?)?;
            print_issued(&config, &policy, &issued, args.json)?;
        }
        Command::Rotate { agent, profile, ttl, overlap } => {
            let policy = policy(&config)?;
            let whom = entry(&policy, &agent, None, profile.as_deref())?;
            let now = Timestamp::now();
            let (expires, overlap) = (end(now, ttl)?, end(now, Some(overlap))?.unwrap_or(now));
            let rotated = identity::rotate(&config.policy_dir, whom, now, expires, overlap)?;
            print_rotated(&config, &policy, &rotated, args.json)?;
        }
        Command::List => print_list(&Credentials::load(&config.policy_dir)?, args.json)?,
        Command::Revoke { id } => {
            let revoked = identity::revoke(&config.policy_dir, &id)?;
            if args.json {
                print(&serde_json::to_string_pretty(&public(&revoked))?)?;
            } else {
                let learns = learns(&config);
                print(&format!("Revoked {} of {}. {learns}", revoked.id(), revoked.agent()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn policy(config: &Config) -> anyhow::Result<Policy> {
    Policy::load(&config.policy_dir, &config.servers)
        .context("the policy has mistakes; a credential is issued for an agent of a good policy")
}

/// The end of what begins `now`, to the second.
fn end(now: Timestamp, ttl: Option<SignedDuration>) -> anyhow::Result<Option<Timestamp>> {
    let end = ttl.map(|ttl| now.checked_add(ttl)?.round(Unit::Second)).transpose();
    end.context("that is longer than a calendar has years")
}

/// A span such as `15m`: more than nothing.
fn duration(text: &str) -> Result<SignedDuration, String> {
    const DAY_SECONDS: i64 = 24 * 3600;
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY_SECONDS,
        _ => return Err("write one number and one of s, m, h, d, such as 90m".into()),
    };
    let number: i64 = number.parse().map_err(|_not_one| "write a number first, such as 15m".to_owned())?;
    let total = number.checked_mul(seconds).filter(|total| *total > 0);
    total
        .map(SignedDuration::from_secs)
        .ok_or_else(|| "write more than nothing; `tokens revoke` ends one at once".into())
}

/// What the credential is for, by the agent's own entry.
fn entry(
    policy: &Policy,
    agent: &str,
    client: Option<&str>,
    profile: Option<&str>,
) -> anyhow::Result<Recipient> {
    let Some((name, entry)) = policy.agents().find(|(name, _)| name.as_str() == agent) else {
        let known = suggest(agent, policy.agents().map(|(name, _)| name.as_str()));
        bail!("the policy has no agent {agent:?}; {}", known.unwrap_or_else(|| "it has none at all".into()));
    };
    if !entry.needs.secret() {
        bail!(
            "{name} needs no secret, so a credential would prove nothing; to give it one, write `secret` in the `needs` of its entry"
        );
    }
    if let Some(client) = client
        && client != entry.client.as_str()
    {
        bail!("{name} has the client_id {}, not {client:?}; change its entry first", entry.client);
    }
    let mut profiles = entry.profiles.iter();
    let found = match profile {
        Some(profile) => profiles.find(|known| known.as_str() == profile),
        None => profiles.next(),
    };
    let Some(found) = found else {
        let known = suggest(profile.unwrap_or_default(), entry.profiles.iter().map(ProfileName::as_str));
        bail!("{name} has no profile {:?}; {}", profile.unwrap_or_default(), known.unwrap_or_default());
    };
    Ok(Recipient { agent: name.clone(), client: entry.client.clone(), profile: found.clone() })
}

/// What a client takes as it is: each server that the agent may use, with the three headers.
fn client_config(config: &Config, policy: &Policy, issued: &Issued) -> serde_json::Value {
    let (credential, secret) = (&issued.credential, issued.secret.reveal());
    let (agent, profile) = (credential.agent(), Some(credential.profile()));
    let servers = config.servers.iter().filter(|server| policy.may_connect(agent, profile, &server.name));
    let servers: serde_json::Map<_, _> = servers
        .map(|server| {
            let url = format!("https://localhost:{}{}", server.port, server.path);
            let headers = json!({
                "X-Client-ID": credential.client(),
                "X-Profile-ID": credential.profile(),
                "Authorization": format!("Bearer {secret}"),
            });
            (server.name.to_string(), json!({"type": "http", "url": url, "headers": headers}))
        })
        .collect();
    json!({"mcpServers": servers})
}

/// What `--json` says of a credential just made.
fn told(config: &Config, policy: &Policy, issued: &Issued) -> serde_json::Value {
    let mut all = public(&issued.credential);
    all["secret"] = json!(issued.secret.reveal());
    all["client_config"] = client_config(config, policy, issued);
    all
}

fn print_rotated(config: &Config, policy: &Policy, rotated: &Rotated, as_json: bool) -> anyhow::Result<()> {
    let (next, before) = (&rotated.next, &rotated.before);
    if as_json {
        let mut all = told(config, policy, next);
        all["before"] = before.iter().map(public).collect();
        return print(&serde_json::to_string_pretty(&all)?);
    }
    print_issued(config, policy, next, false)?;
    if before.is_empty() {
        eprintln!("There was none before it.");
    }
    for old in before {
        let expires = old.expires().map(|expires| expires.to_string()).unwrap_or_default();
        eprintln!("{} stays good until {expires}, once the guard has read this.", old.id());
    }
    if before.iter().any(|old| next.credential.expires().is_some_and(|end| old.expires() > Some(end))) {
        eprintln!("Note: that is longer than the new one is good for.");
    }
    Ok(())
}

fn print_issued(config: &Config, policy: &Policy, issued: &Issued, as_json: bool) -> anyhow::Result<()> {
    let credential = &issued.credential;
    if as_json {
        return print(&serde_json::to_string_pretty(&told(config, policy, issued))?);
    }
    let client = client_config(config, policy, issued);
    // The configuration alone goes to standard output, so that it can be piped into a file.
    let until = credential.expires().map_or_else(String::new, |expires| format!(", good until {expires}"));
    eprintln!(
        "Issued {} for {} (profile {}{until}).",
        credential.id(),
        credential.agent(),
        credential.profile()
    );
    eprintln!("The secret is shown this once; the guard keeps its SHA-256 only. Client configuration:\n");
    print(&serde_json::to_string_pretty(&client)?)?;
    eprintln!("\nFrom another host, put this host's name in place of localhost.");
    eprintln!("The client must trust the guard's CA: {}.", config.tls_dir().join("ca.pem").display());
    eprintln!("{}", learns(config));
    Ok(())
}

fn print_list(credentials: &Credentials, as_json: bool) -> anyhow::Result<()> {
    let list = credentials.list();
    if as_json {
        let all: Vec<_> = list.into_iter().map(public).collect();
        return print(&serde_json::to_string_pretty(&all)?);
    }
    if list.is_empty() {
        return print("No credentials yet; `mcp-guard tokens issue --agent NAME` makes one.");
    }
    let mut table = output::table(["id", "agent", "client", "profile", "issued", "expires"]);
    let now = Timestamp::now();
    for c in list {
        table.add_row([
            c.id().as_str(),
            c.agent().as_str(),
            c.client().as_str(),
            c.profile().as_str(),
            c.issued(),
            &match c.expires() {
                Some(expires) if c.is_expired(now) => format!("{expires} (expired)"),
                Some(expires) => expires.to_string(),
                None => "never".into(),
            },
        ]);
    }
    print(&table.to_string())
}

/// Without the secret's digest: nobody needs it outside the file.
fn public(credential: &Credential) -> serde_json::Value {
    json!({
        "id": credential.id(),
        "agent": credential.agent(),
        "client_id": credential.client(),
        "profile": credential.profile(),
        "issued": credential.issued(),
        "expires": credential.expires().map(|expires| expires.to_string()),
        "expired": credential.is_expired(Timestamp::now()),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn example() -> (Config, Policy) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/customer-ops/guard.yaml");
        let config = Config::load(&path).unwrap();
        let policy = Policy::load(&config.policy_dir, &config.servers).unwrap();
        (config, policy)
    }

    #[test]
    fn a_credential_is_for_what_the_agents_entry_says() {
        let (_, policy) = example();
        let found = entry(&policy, "support-agent", None, None).unwrap();
        assert_eq!((found.client.as_str(), found.profile.as_str()), ("support-assistant", "default"));
        assert!(entry(&policy, "support-agent", Some("support-assistant"), Some("default")).is_ok());
        for (agent, client, profile, said) in [
            ("suport-agent", None, None, "did you mean \"support-agent\"?"),
            ("support-agent", Some("other"), None, "has the client_id support-assistant, not \"other\""),
            ("support-agent", None, Some("admin"), "has no profile \"admin\"; known here: default"),
        ] {
            let error = entry(&policy, agent, client, profile).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_client_configuration_has_url_and_three_headers() {
        let (config, policy) = example();
        let dir = tempfile::tempdir().unwrap();
        let whom = entry(&policy, "support-agent", None, None).unwrap();
        let issued = identity::issue(dir.path(), whom, Timestamp::now(), None).unwrap();
        let expected = json!({"mcpServers": {"customer-ops": {
            "type": "http",
            "url": "https://localhost:3001/mcp",
            "headers": {
                "X-Client-ID": "support-assistant",
                "X-Profile-ID": "default",
                "Authorization": format!("Bearer {}", issued.secret.reveal()),
            },
        }}});
        assert_eq!(client_config(&config, &policy, &issued), expected);
        // Nothing else tells the secret or its digest.
        assert!(!public(&issued.credential).to_string().contains("sha256"));
    }

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        let seconds = |text: &str| duration(text).map(|span| span.as_secs());
        assert_eq!(
            [seconds("90s"), seconds("15m"), seconds("8h"), seconds("30d")],
            [Ok(90), Ok(900), Ok(28_800), Ok(2_592_000)]
        );
        for wrong in
            ["", "m", "0m", "15", "-1h", "1.5h", "1w", "1h30m", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert!(end(Timestamp::MAX, Some(SignedDuration::from_secs(1))).is_err());
    }
}
