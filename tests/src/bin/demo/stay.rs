//! `--stay`: everything goes on running, and clients of the user's own may come.

use anyhow::Context;
use serde_json::Value;

use crate::agent::Agent;
use crate::interrupt;
use crate::screen::Screen;
use crate::stage::Stage;

/// Prints what a client needs, waits for Ctrl-C, then cleans up.
pub(crate) fn stay(mut stage: Stage, agent: &Agent, issued: &Value, screen: &Screen) -> anyhow::Result<()> {
    screen.section(7, "Your own client: this configuration is the support agent's");
    println!("{}", serde_json::to_string_pretty(&issued["client_config"])?);
    let ca = stage.ca();
    println!("\nIt must trust the guard's CA. In the client's environment, by what it is written in:");
    println!("  NODE_EXTRA_CA_CERTS={}    # Node.js", ca.display());
    println!("  SSL_CERT_FILE={}          # Python, Rust", ca.display());
    let [client, profile, secret] = agent.credential.as_ref().context("the agent has no credential")?;
    println!("\nOr with the demo's own client:");
    println!("  MCP_AGENT_SECRET={secret} \\");
    println!("    {} --url {} \\", stage.client().display(), agent.endpoint.url);
    println!("    --ca {} --client-id {client} --profile {profile} list-tools", ca.display());
    println!(
        "\nThe policies: {} (after a change: mcp-guard reload)",
        stage.daemon.config.policy_dir.display()
    );
    println!("The operator's side: mcp-guard status --config {}", stage.daemon.config_file().display());
    println!("The guard's log: {}", stage.daemon.log_file().display());
    screen.end(true, "Running until Ctrl-C.");
    interrupt::wait();
    println!();
    // The terminal has told the guard, too; it may be on its way out or gone.
    stage.daemon.stop()?;
    stage.daemon.unload()?;
    stage.close()?;
    println!("Everything that the demo started is gone again.");
    Ok(())
}
