//! `mcp-guard run`

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use crate::app::{self, App, Signals, StartOptions};
use crate::audit::Acceptance;
use crate::config::{Limits, Overrides};
use crate::service::Manager;
use crate::{kernel, privilege, service, telemetry};

/// Open files that are no connections: maps, programs, the trail, the admin socket, pipes, and some to spare.
const FILES_BESIDE_CONNECTIONS: u64 = 256;

/// Protect the configured servers (the daemon)
///
/// Closes the servers' ports to everybody but the guard, proves it with real connections, and serves until SIGTERM
/// or SIGINT. However it ends, the ports stay closed; `mcp-guard unload` opens them. SIGHUP reloads.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Take the listeners of the running guard, which lets its calls end and goes: no client is refused meanwhile
    ///
    /// The files are read before it is asked: if one is wrong, it goes on serving. Without a running guard this is an
    /// ordinary start. Under systemd, `systemctl restart` does the same by itself.
    #[arg(long)]
    take_over: bool,
    /// Take over the pins of a newer version, which may have protected more than this one knows
    #[arg(long)]
    allow_downgrade: bool,
    /// Go on with an audit trail that has fewer or other records than a checkpoint of it says. The reason is recorded
    ///
    /// For a disk that is lost and was restored from a copy. What is left of the trail must be sound in itself.
    #[arg(long, value_name = "REASON")]
    accept_loss: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    telemetry::init();
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        bail!("run it as root (this is uid {user}); `mcp-guard doctor` tells what else is missing");
    }
    let accept_loss = args.accept_loss.as_deref().map(acceptance).transpose()?;
    // A reload that is asked for too early waits instead of ending the guard; the other signals may end it here.
    let mut too_early = SigSet::empty();
    too_early.add(Signal::SIGHUP);
    too_early.thread_block().context("cannot hold signals back")?;
    let config = args.config.load()?;
    make_room_for_files(&config.limits);
    kernel::prepare(&config.kernel)?;
    privilege::settle()?;
    let manager = Manager::from_environment();
    let inherited = service::inherited();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ports: Vec<String> = config.servers.iter().map(|server| server.port.to_string()).collect();
    let farewell = runtime.block_on(async {
        let signals = Signals::catch().context("cannot catch signals")?;
        too_early.thread_unblock().context("cannot let signals in")?;
        let socket = config.admin_socket();
        let (take_over, allow_downgrade) = (args.take_over, args.allow_downgrade);
        let options = StartOptions { take_over, allow_downgrade, inherited, accept_loss };
        let started = App::start(config, manager, options).await;
        let (app, acceptor) = started.map_err(|error| {
            let nobody = UnixStream::connect(&socket).is_err();
            let words = "no guard runs now, and the ports that one protected stay CLOSED; mend this and run `mcp-guard run`";
            if args.take_over && nobody { error.context(words) } else { error }
        })?;
        app::serve_admin(&app)?;
        announce(&app, app.prove().await);
        app.run(acceptor, signals).await
    })?;
    println!("{}", last_words(&ports, farewell.is_handed_on()));
    Ok(ExitCode::SUCCESS)
}

fn acceptance(reason: &str) -> anyhow::Result<Acceptance> {
    if reason.trim().is_empty() {
        bail!("--accept-loss needs a reason, which is recorded");
    }
    Ok(Acceptance { reason: reason.to_owned(), uid: nix::unistd::getuid().as_raw() })
}

fn last_words(ports: &[String], is_handed_on: bool) -> String {
    let ports = ports.join(", ");
    if is_handed_on {
        format!("stopped: the next guard goes on with the listeners of the servers' ports ({ports}).")
    } else {
        format!(
            "stopped: the servers' ports ({ports}) stay CLOSED. `mcp-guard run` serves again; `mcp-guard unload` opens them."
        )
    }
}

/// Each client connection may need another one to the server. Many hosts start programs with room for 1,024 files: the
/// limit on connections would never be reached, and a few idle clients would keep everybody out.
fn make_room_for_files(limits: &Limits) {
    let wanted = u64::try_from(limits.connections_max).unwrap_or(u64::MAX).saturating_mul(2);
    let wanted = wanted.saturating_add(FILES_BESIDE_CONNECTIONS);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let most = soft.max(wanted.min(hard));
        setrlimit(Resource::RLIMIT_NOFILE, most, hard).map(|()| most)
    });
    match raised {
        Ok(files) if files < wanted => tracing::warn!(
            files,
            wanted,
            "this process may not open as many files as limits.connections_max needs; raise LimitNOFILE (ulimit -n)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit on open files stays as it is"),
    }
}

fn announce(app: &Arc<App>, proven: bool) {
    let config = app.config();
    for server in &config.servers {
        println!("{}: https on port {}, endpoint {}", server.name, server.port, server.path);
    }
    if let Some(ca) = app.ca_file() {
        println!("Clients trust the CA in {} (NODE_EXTRA_CA_CERTS, SSL_CERT_FILE).", ca.display());
    }
    for server in app.servers_down() {
        println!(
            "SERVER DOWN: nothing is pinned behind port {} ({}) yet; start it.",
            server.port, server.name
        );
    }
    for words in app.shortcomings() {
        println!("{words}");
    }
    if proven {
        println!("protected: every claim was tried with a real connection and holds.");
    } else {
        println!(
            "NOT PROVEN: some claim does not hold; `mcp-guard status` says which. The ports stay closed."
        );
    }
}
