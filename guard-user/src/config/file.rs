//! The shape of `guard.yaml`. Unknown keys are refused.

use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::egress::{Egress, OtherPorts};
use super::{Authorize, Checkpoints, Credential, Issuer, Limits, Place};
use crate::types::ServerName;

/// `guard.yaml`, complete: what a file leaves out stands here with its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The MCP servers whose ports only the guard may reach.
    pub servers: Vec<Server>,
    /// Agents, intents, policies and velocity rules: every `*.yaml` in here, and the credentials.
    #[serde(default = "default_policy_dir")]
    pub policy_dir: PathBuf,
    /// When the policy files and the credentials are read again.
    #[serde(default)]
    pub reload: Reload,
    /// Audit trail, keys, certificates.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// `admin.sock` and the lock of the running guard.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// Whose signed tokens tell who an agent is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub audit: Audit,
    #[serde(default)]
    pub kernel: Kernel,
    #[serde(default)]
    pub limits: Limits,
}

/// When the running guard reads its policy again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reload {
    /// When it is told to: `mcp-guard reload` or SIGHUP. Whoever edits in place is not overtaken.
    #[default]
    Signal,
    /// Also whenever a file in the policy directory has changed.
    OnChange,
}

/// One protected MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub name: ServerName,
    /// The TCP port that the server listens on and that agents go on using.
    pub port: NonZeroU16,
    /// The network namespace of that port. Servers in containers need it; more than one may be found for it.
    #[serde(default, rename = "in", skip_serializing_if = "is_host")]
    pub place: Place,
    /// The MCP endpoint; any other path on the port is refused.
    #[serde(default = "default_path")]
    pub path: String,
    /// The endpoint of HTTP+SSE (2024-11-05), such as `/sse`, if the server has one: a GET opens the stream, whose first event
    /// names the path to post to. That path works for the agent that it was given to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse_path: Option<String>,
    /// JSON-RPC batches, which 2025-03-26 allowed.
    #[serde(default)]
    pub batches: Batches,
    #[serde(default)]
    pub plaintext: Plaintext,
    /// Pass the agent's `Authorization` on, and let it read at `/.well-known/` whom the server wants it from. For agents that
    /// are known by their process: the guard's own credential ends here in any case.
    #[serde(default)]
    pub forward_authorization: bool,
    /// Further paths of a server that is its own authorization server, such as `/token`: known agents may GET and POST there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oauth_paths: Vec<String>,
    /// The guard is the server's OAuth 2.1 resource server: it tells where tokens are to be had, and takes those for this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorize: Option<Authorize>,
    /// What the guard shows to the server in each request, in place of anything that a client sends there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// Where the processes of its cgroup may connect. Left out: everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// What becomes of other ports that it listens on.
    #[serde(default)]
    pub other_ports: OtherPorts,
    /// What becomes of tools that are new or have changed.
    #[serde(default)]
    pub tools: ToolRules,
}

/// How a server's tools are pinned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolRules {
    pub first_sight: FirstSight,
    pub cosmetic: Cosmetic,
}

/// What becomes of a tool that no list had before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstSight {
    /// It is pinned as it is.
    #[default]
    Trust,
    /// Nobody sees or calls it before an operator has approved it.
    Hold,
}

/// What becomes of a change that is for the eye alone: titles, icons, white space in the description.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cosmetic {
    /// It is held like any other.
    #[default]
    Hold,
    /// It is pinned in place of what was.
    Accept,
}

/// What becomes of an array of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batches {
    /// 400: some servers run them whatever revision was agreed on, and others do not.
    #[default]
    Refuse,
    /// Where 2025-03-26 was agreed on: judge, record and forward each message by itself.
    Split,
}

/// Whether a server's port takes HTTP without TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plaintext {
    /// Answer 426 with the https URL and the CA file.
    #[default]
    Refuse,
    /// Take it from loopback peers; answer 426 to others.
    Loopback,
}

/// The server side of TLS. Without files, the guard makes a local CA and a certificate at its first start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM certificate chain, leaf first. With `key`, replaces the local CA's certificate.
    pub certificate: Option<PathBuf>,
    /// PEM private key of `certificate`.
    pub key: Option<PathBuf>,
    /// Further DNS names or IP addresses for the local CA's certificate.
    pub names: Vec<String>,
    /// Also accept TLS 1.2.
    pub tls12: bool,
    /// PEM files with the CAs that vouch for clients; with one, every client is asked for a certificate, and none must have it.
    pub client_ca: Vec<PathBuf>,
    /// PEM files with what these CAs, each of them, have revoked.
    pub client_crl: Vec<PathBuf>,
}

/// Where the audit trail is and when a record counts as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Default: `audit` in `state_dir`.
    pub dir: Option<PathBuf>,
    pub durability: Durability,
    /// Between two records of what kernel and guard counted.
    pub heartbeat_seconds: u64,
    /// The trail goes on in a new file when one has so many bytes, or is so old.
    pub segment_bytes: u64,
    pub segment_seconds: u64,
    /// The key that signs is replaced by another when it is so old, and destroyed.
    pub key_epoch_seconds: u64,
    /// Pack files that nothing is added to any more, with gzip.
    pub compress: bool,
    /// Remove files whose records are all older, from the first on; none: keep them.
    pub keep_days: Option<u64>,
    /// Remove the oldest files while all have more bytes; none: keep them.
    pub keep_bytes: Option<u64>,
    /// Cursors of `audit export`: what they have not behind them stays.
    pub export_cursors: Vec<PathBuf>,
    /// Copies of its signed checkpoints.
    pub checkpoints: Checkpoints,
    /// Set aside beside the trail, so that a full disk keeps no record of the guard's own from it; 0: nothing.
    pub reserve_bytes: u64,
    /// With less free on the trail's disk, the guard says so; 0: never.
    pub free_low_bytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            dir: None,
            durability: Durability::default(),
            heartbeat_seconds: 60,
            segment_bytes: 64 * 1024 * 1024,
            segment_seconds: 24 * 3600,
            key_epoch_seconds: 6 * 3600,
            compress: true,
            keep_days: None,
            keep_bytes: None,
            export_cursors: Vec::new(),
            checkpoints: Checkpoints::default(),
            reserve_bytes: 4 * 1024 * 1024,
            free_low_bytes: 512 * 1024 * 1024,
        }
    }
}

/// What a call waits for before it is forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// `fdatasync` of its intent record: survives a power cut.
    #[default]
    Durable,
    /// `write` of its intent record: survives the guard's death, not the host's.
    Os,
}

/// Where the guard keeps its kernel state. Two guards on one host differ in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kernel {
    /// A bpffs mount; the guard mounts one here if there is none.
    pub bpffs: PathBuf,
    /// The directory of the guard's pins in `bpffs`.
    pub pins: String,
    /// The guard's own cgroup, below the cgroup2 root.
    pub cgroup: String,
    /// What the second wall, at the servers' cgroups, does with packets that are not the guard's.
    pub wall: WallMode,
    /// Cgroups, below the cgroup2 root: a listener that appears in one of them or below, and is not configured, is reached
    /// by nobody until an operator has approved it.
    pub watch: Vec<String>,
    /// Put back what is missing in the kernel: links, pins, rules, listeners. It is recorded in either case.
    pub reattach: bool,
    /// Between two proofs of all claims with real connections; 0: only at the start, and until all hold.
    pub prove_seconds: u64,
}

/// What the second wall does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WallMode {
    /// Drop. Until connections from before the guard are ended, it counts.
    #[default]
    Enforce,
    /// Let pass and count.
    Count,
    /// No wall.
    Off,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf".into(),
            pins: "mcp-guard".into(),
            cgroup: "mcp-guard".into(),
            wall: WallMode::Enforce,
            watch: Vec::new(),
            reattach: true,
            prove_seconds: 300,
        }
    }
}

impl Config {
    /// SHA-256 of all that is configured, defaults, flags and approved listeners included, in hex: the same for the same guard, whatever the file
    /// looks like.
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(text))
    }

    /// Where the audit trail is.
    pub fn audit_dir(&self) -> PathBuf {
        self.audit.dir.clone().unwrap_or_else(|| self.state_dir.join("audit"))
    }

    /// The ports of the servers: whoever the guard asks over the network is not there.
    pub fn server_ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.port.get()).collect()
    }

    /// Where the local CA and its certificate are.
    pub fn tls_dir(&self) -> PathBuf {
        self.state_dir.join("tls")
    }

    /// The operator's API of the running guard.
    pub fn admin_socket(&self) -> PathBuf {
        self.runtime_dir.join("admin.sock")
    }
}

fn is_host(place: &Place) -> bool {
    *place == Place::Host
}

fn default_path() -> String {
    "/mcp".into()
}

fn default_policy_dir() -> PathBuf {
    "/etc/mcp-guard/policies".into()
}

fn default_state_dir() -> PathBuf {
    "/var/lib/mcp-guard".into()
}

fn default_runtime_dir() -> PathBuf {
    "/run/mcp-guard".into()
}
