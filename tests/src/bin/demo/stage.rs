//! What the story happens on: the sample server, the guard's files, and the agents. Dropping it cleans up.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use guard_tests::client::Endpoint;
use guard_tests::daemon::{Daemon, Programs};
use guard_tests::journal;
use guard_tests::process::{Fixture, copy_program, program};
use guard_tests::residue::Ids;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::Agent;

/// The example that the README shows, too.
const POLICIES: [(&str, &str); 2] = [
    ("agents.yaml", include_str!("../../../../policies/examples/customer-ops/policies/agents.yaml")),
    ("seed.yaml", include_str!("../../../../policies/examples/customer-ops/policies/seed.yaml")),
];
/// The policy's agents, without their common ending.
pub(crate) const AGENTS: [&str; 3] = ["lookup", "support", "analytics"];

pub(crate) struct Stage {
    // Dropped in this order: the guard is unloaded first.
    pub(crate) daemon: Daemon,
    pub(crate) server: Fixture,
    pub(crate) port: u16,
    /// Every kernel object that a guard of this demo loaded.
    pub(crate) ids: Ids,
    /// What an ordinary user may see: the client, the CA.
    public: TempDir,
    client: PathBuf,
}

impl Stage {
    /// Starts the server on `port`. The guard does not run yet.
    pub(crate) fn new(port: u16) -> anyhow::Result<Self> {
        let public = tempfile::Builder::new().prefix("mcp-guard-demo-").tempdir()?;
        fs::set_permissions(public.path(), Permissions::from_mode(0o755))?;
        let client = public.path().join("mcp-agent");
        copy_program(&program("mcp-agent")?, &client)?;

        let server = serde_json::from_value(json!({"name": "customer-ops", "port": port}))?;
        let daemon = Daemon::new(Programs::built()?, None, &[server], &POLICIES)?;
        let journal = daemon.dir().join("journal");
        let journal = journal.to_str().context("the path of the temporary directory is not UTF-8")?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Fixture::start("customer-ops", None, listen, &["--journal", journal])?;
        Ok(Self { daemon, server, port, ids: Ids::default(), public, client })
    }

    /// Somebody without a credential who speaks plain HTTP to the server's port.
    pub(crate) fn stranger(&self) -> Agent {
        let endpoint = Endpoint::plain(format!("http://127.0.0.1:{}/mcp", self.port));
        Agent { name: "stranger".into(), program: self.client.clone(), endpoint, credential: None }
    }

    /// Issues a credential; returns all that `tokens issue` said.
    pub(crate) fn issue(&self, name: &str) -> anyhow::Result<Value> {
        self.daemon.write_config()?;
        self.daemon.json("tokens issue", &["--agent", &format!("{name}-agent")])
    }

    /// An agent with what `tokens issue` said.
    pub(crate) fn agent(&self, name: &str, issued: &Value) -> anyhow::Result<Agent> {
        let field = |name: &str| issued[name].as_str().map(str::to_owned).context("a field is missing");
        let [client, profile, secret] = [field("client_id")?, field("profile")?, field("secret")?];
        let url = format!("https://localhost:{}/mcp", self.port);
        let endpoint = Endpoint::plain(url).trusting(&self.ca()).identified(&client, &profile, &secret);
        let credential = Some([client, profile, secret]);
        Ok(Agent { name: name.into(), program: self.client.clone(), endpoint, credential })
    }

    /// Starts the guard; returns its status. Clients find its CA at [`Stage::ca`].
    pub(crate) fn start_guard(&mut self) -> anyhow::Result<Value> {
        self.daemon.start()?;
        fs::copy(self.daemon.ca(), self.ca()).context("copying the CA's certificate")?;
        fs::set_permissions(self.ca(), Permissions::from_mode(0o644))?;
        let status = self.daemon.status()?;
        self.ids.add(&status["kernel"]);
        Ok(status)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.public.path().join("ca.pem")
    }

    pub(crate) fn client(&self) -> &Path {
        &self.client
    }

    /// The calls that the server executed.
    pub(crate) fn executed(&self) -> anyhow::Result<usize> {
        Ok(journal::read(&self.daemon.dir().join("journal"))?.len())
    }

    /// Ends the server and removes the files; an error if any stays.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        let Self { daemon, server, public, .. } = self;
        let places = [daemon.dir().to_owned(), public.path().to_owned()];
        drop(daemon);
        drop(server);
        public.close()?;
        for place in places {
            ensure!(!place.exists(), "{} is left", place.display());
        }
        Ok(())
    }
}
