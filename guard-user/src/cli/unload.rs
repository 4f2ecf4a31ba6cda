//! `mcp-guard unload`

use std::process::ExitCode;

use anyhow::bail;

use crate::admin::{self, Ask, ClientError};
use crate::config::Overrides;
use crate::kernel;

/// Stop protecting: remove every program, map, link and pin, and OPEN the ports
///
/// From then on anybody who can reach a server's port reaches the server. Works with or without a running guard,
/// but a running one must be stopped first, since calls on their way would lose their protection.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    match admin::ask(&config.admin_socket(), &Ask::Status { prove: false }) {
        Ok(status) => {
            let pid = status.get("pid").and_then(serde_json::Value::as_u64).unwrap_or_default();
            bail!(
                "a guard is running (pid {pid}); stop it first (`mcp-guard stop`, or `systemctl stop mcp-guard` if systemd started \
                 it), then unload"
            );
        }
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let unloaded = kernel::unload(&config.kernel)?;
    if args.json {
        println!("{}", serde_json::to_string(&unloaded)?);
    } else {
        println!("{unloaded}");
        let ports: Vec<String> = config.servers.iter().map(|server| server.port.to_string()).collect();
        println!("The servers' ports ({}) are open: nothing protects them now.", ports.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
