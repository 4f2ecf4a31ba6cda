//! A command-line MCP agent: what an operator sees of an agent, as short lines.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use guard_tests::client::{Client, Endpoint, Era, said};
use rmcp::ServiceError;
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

/// Command-line MCP agent. Ends with 0 if every call was answered, 1 if one was refused, 2 if one failed
#[derive(Parser)]
#[command(name = "mcp-agent", max_term_width = 100)]
struct Options {
    /// The server's MCP endpoint
    #[arg(long, default_value = "https://localhost:3001/mcp")]
    url: String,
    /// PEM file of the CA to trust
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// What the agent calls itself (X-Client-ID)
    #[arg(long, requires = "profile")]
    client_id: Option<String>,
    /// The profile that it asks for (X-Profile-ID)
    #[arg(long, requires = "client_id")]
    profile: Option<String>,
    /// File with the agent's secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The agent's secret; better in the environment than on the command line
    #[arg(long, env = "MCP_AGENT_SECRET", hide_env_values = true, conflicts_with = "secret_file")]
    secret: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    era: Era,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show the tools that the agent may call
    ListTools,
    /// Call a tool once
    Call {
        tool: String,
        #[arg(default_value = "{}")]
        arguments: String,
    },
    /// Call a tool N times, one after the other
    Repeat {
        n: u64,
        tool: String,
        #[arg(default_value = "{}")]
        arguments: String,
    },
    /// Read a resource
    Read { uri: String },
}

/// How one call ended, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Answered,
    Refused,
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(Outcome::Answered) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        Err(error) => {
            eprintln!("mcp-agent: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let client = Client::connect(&endpoint(options)?, options.era).await?;
    let outcome = match &options.task {
        Task::ListTools => list(&client, options.json).await,
        Task::Call { tool, arguments } => {
            let (outcome, text) = call(&client, tool, parse(arguments)?).await;
            if options.json {
                println!("{}", json!({"tool": tool, "outcome": outcome.word(), "text": text}));
            } else {
                println!("{:<8} {text}", outcome.word());
            }
            outcome
        }
        Task::Repeat { n, tool, arguments } => {
            repeat(&client, *n, tool, &parse(arguments)?, options.json).await
        }
        Task::Read { uri } => match client.read(uri).await {
            Ok(text) => {
                println!("{text}");
                Outcome::Answered
            }
            Err(error) => {
                println!("{:<8} {error}", Outcome::Failed.word());
                Outcome::Failed
            }
        },
    };
    client.close().await;
    Ok(outcome)
}

fn endpoint(options: &Options) -> anyhow::Result<Endpoint> {
    let mut endpoint = Endpoint::plain(&options.url);
    endpoint.ca.clone_from(&options.ca);
    let secret = match (&options.secret_file, &options.secret) {
        (Some(file), _) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            Some(text.trim().to_owned())
        }
        (None, secret) => secret.clone(),
    };
    match (&options.client_id, &options.profile, secret) {
        (Some(client), Some(profile), Some(secret)) => Ok(endpoint.identified(client, profile, &secret)),
        (None, None, None) => Ok(endpoint),
        _ => anyhow::bail!("--client-id, --profile and a secret go together: give all three or none"),
    }
}

fn parse(arguments: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(arguments).context("the arguments are not JSON")?;
    anyhow::ensure!(value.is_object(), "the arguments must be a JSON object, such as '{{\"id\": 1}}'");
    Ok(value)
}

async fn list(client: &Client, json: bool) -> Outcome {
    match client.tools().await {
        Ok(tools) if json => println!("{}", json!({"tools": tools})),
        Ok(tools) if tools.is_empty() => println!("no tools"),
        Ok(tools) => println!("{}", tools.join("\n")),
        Err(error) => {
            println!("{:<8} {error}", Outcome::Failed.word());
            return Outcome::Failed;
        }
    }
    Outcome::Answered
}

async fn call(client: &Client, tool: &str, arguments: Value) -> (Outcome, String) {
    judged(client.call(tool, arguments).await)
}

fn judged(result: Result<CallToolResult, ServiceError>) -> (Outcome, String) {
    match result {
        Ok(result) if result.is_error == Some(true) => (Outcome::Refused, said(&result)),
        Ok(result) => (Outcome::Answered, said(&result)),
        Err(ServiceError::McpError(error)) => {
            (Outcome::Refused, format!("{} ({})", error.message, error.code.0))
        }
        Err(error) => (Outcome::Failed, error.to_string()),
    }
}

/// One line per run of equal outcomes, with the text of the run's first call.
async fn repeat(client: &Client, n: u64, tool: &str, arguments: &Value, json: bool) -> Outcome {
    let mut worst = Outcome::Answered;
    let mut run: Option<(u64, Outcome, String)> = None;
    for number in 1..=n {
        let (outcome, text) = call(client, tool, arguments.clone()).await;
        worst = worst.max(outcome);
        match &run {
            Some((_, same, _)) if *same == outcome => {}
            _ => {
                let ended = run.replace((number, outcome, text));
                print_run(ended, number - 1, tool, json);
            }
        }
    }
    print_run(run, n, tool, json);
    worst
}

fn print_run(run: Option<(u64, Outcome, String)>, to: u64, tool: &str, json: bool) {
    let Some((from, outcome, text)) = run else { return };
    if json {
        println!(
            "{}",
            json!({"tool": tool, "from": from, "to": to, "outcome": outcome.word(), "text": text})
        );
    } else {
        let numbers = if from == to { from.to_string() } else { format!("{from}-{to}") };
        println!("{numbers:<9} {:<8} {text}", outcome.word());
    }
}
