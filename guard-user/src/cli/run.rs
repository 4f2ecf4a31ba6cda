//! `mcp-guard run`

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

use crate::app::{self, App, StopSignals};
use crate::config::Overrides;
use crate::telemetry;

/// Protect the configured servers (the daemon)
///
/// Closes the servers' ports to everybody but the guard, proves it with real connections, and serves until SIGTERM
/// or SIGINT. However it ends, the ports stay closed; `mcp-guard unload` opens them. SIGHUP reloads.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    telemetry::init();
    let config = args.config.load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = StopSignals::catch().context("cannot catch signals")?;
        let (app, acceptor) = App::start(config).await?;
        app::serve_admin(&app)?;
        announce(&app, app.prove().await);
        app.run(acceptor, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn announce(app: &Arc<App>, proven: bool) {
    let config = app.config();
    for server in &config.servers {
        println!("{}: https on port {}, endpoint {}", server.name, server.port, server.path);
    }
    if let Some(ca) = app.ca_file() {
        println!("Clients trust the CA in {} (NODE_EXTRA_CA_CERTS, SSL_CERT_FILE).", ca.display());
    }
    if proven {
        println!("protected: every claim was tried with a real connection and holds.");
    } else {
        println!(
            "NOT PROVEN: some claim does not hold; `mcp-guard status` says which. The ports stay closed."
        );
    }
}
