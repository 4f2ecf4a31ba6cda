//! Reads `guard.yaml`, puts flags and environment over it, and checks what the types cannot.

mod authorize;
mod checkpoints;
mod credential;
mod issuers;
mod trail;

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::decisions::DECISIONS_FILE;
use super::problem::{Problem, Problems};
use super::yaml::{self, FILE_BYTES_MAX, Node, Value};
use super::{Config, Issuer, Place, Server, read_bounded};
use Step::{Item, Key};

/// Where the configuration is, and what of it this one command sees differently. A flag wins over the
/// environment, the environment over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// guard.yaml
    #[arg(
        long,
        global = true,
        env = "MCP_GUARD_CONFIG",
        value_name = "FILE",
        default_value = "/etc/mcp-guard/guard.yaml"
    )]
    pub config: PathBuf,
    /// Audit trail, keys, certificates; not set here: `state_dir` of guard.yaml, else /var/lib/mcp-guard
    #[arg(
        long,
        global = true,
        help_heading = "Configuration",
        env = "MCP_GUARD_STATE_DIR",
        value_name = "DIR"
    )]
    pub state_dir: Option<PathBuf>,
    /// Admin socket and lock; not set here: `runtime_dir` of guard.yaml, else /run/mcp-guard
    #[arg(
        long,
        global = true,
        help_heading = "Configuration",
        env = "MCP_GUARD_RUNTIME_DIR",
        value_name = "DIR"
    )]
    pub runtime_dir: Option<PathBuf>,
    /// Policy files and credentials; not set here: `policy_dir` of guard.yaml, else /etc/mcp-guard/policies
    #[arg(
        long,
        global = true,
        help_heading = "Configuration",
        env = "MCP_GUARD_POLICY_DIR",
        value_name = "DIR"
    )]
    pub policy_dir: Option<PathBuf>,
    /// Directory of the guard's pins in bpffs; not set here: `kernel.pins` of guard.yaml, else mcp-guard
    #[arg(long, global = true, help_heading = "Configuration", env = "MCP_GUARD_PINS", value_name = "NAME")]
    pub pins: Option<String>,
    /// The guard's own cgroup, below the cgroup2 root; not set here: `kernel.cgroup` of guard.yaml, else mcp-guard
    #[arg(
        id = "guard-cgroup",
        long = "guard-cgroup",
        global = true,
        help_heading = "Configuration",
        env = "MCP_GUARD_CGROUP",
        value_name = "PATH"
    )]
    pub cgroup: Option<String>,
}

impl Overrides {
    /// The configuration that holds for this command. A value that does not fit its type is told alone; mistakes that
    /// only a second look finds, all together.
    pub fn load(&self) -> Result<Config, Problems> {
        let file = absolute(&self.config);
        let text = read(&file)?;
        let mut config = self.load_text(&file, &text)?;
        config.add_approved().map_err(|error| {
            let file = config.state_dir.join(DECISIONS_FILE);
            Problem::of_file(&file, format!("the approvals cannot be read: {error}"))
                .with_hint("mend the file, or remove it to decide anew; until then no guard starts")
        })?;
        Ok(config)
    }

    /// The same from a text that is already in memory.
    pub fn load_text(&self, file: &Path, text: &str) -> Result<Config, Problems> {
        let mut config = parse(file, text)?;
        config.apply(self);
        check(&config, &Places::new(file, text)?).or(config)
    }
}

impl Config {
    /// Reads and checks `path`, with nothing put over it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Overrides { config: path.to_owned(), ..Overrides::default() }.load()
    }

    /// Paths of flags and environment count from the working directory.
    pub fn apply(&mut self, overrides: &Overrides) {
        let set = |path: &mut PathBuf, over: &Option<PathBuf>| {
            if let Some(over) = over {
                *path = absolute(over);
            }
        };
        set(&mut self.state_dir, &overrides.state_dir);
        set(&mut self.runtime_dir, &overrides.runtime_dir);
        set(&mut self.policy_dir, &overrides.policy_dir);
        if let Some(pins) = &overrides.pins {
            self.kernel.pins.clone_from(pins);
        }
        if let Some(cgroup) = &overrides.cgroup {
            self.kernel.cgroup.clone_from(cgroup);
        }
    }

    /// Paths in the file count from the file's own directory, wherever the command is run.
    fn resolve(&mut self, base: &Path) {
        let paths =
            [&mut self.policy_dir, &mut self.state_dir, &mut self.runtime_dir, &mut self.kernel.bpffs];
        let optional = [&mut self.tls.certificate, &mut self.tls.key, &mut self.audit.dir];
        let keys = self.issuers.iter_mut().flat_map(Issuer::files);
        let credentials =
            self.servers.iter_mut().filter_map(|server| server.credential.as_mut()?.file.as_mut());
        let clients = self.tls.client_ca.iter_mut().chain(&mut self.tls.client_crl);
        let files = keys.chain(credentials).chain(clients).chain(&mut self.audit.export_cursors);
        let files = files.chain(self.audit.checkpoints.paths());
        for path in paths.into_iter().chain(optional.into_iter().flatten()).chain(files) {
            *path = base.join(&*path);
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn read(file: &Path) -> Result<String, Problem> {
    let bytes = read_bounded(file, FILE_BYTES_MAX).map_err(|error| {
        Problem::of_file(file, format!("the file cannot be read: {error}"))
            .with_hint("write one, or name another with --config or MCP_GUARD_CONFIG")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::of_file(file, format!("the file is not UTF-8 (at byte {at})"))
    })
}

fn parse(file: &Path, text: &str) -> Result<Config, Problem> {
    let mut config: Config = yaml::read(file, text)?;
    config.resolve(file.parent().unwrap_or(Path::new("/")));
    Ok(config)
}

/// Where the values of a file stand.
struct Places<'f> {
    file: &'f Path,
    root: Node,
}

/// One step into a document.
#[derive(Clone, Copy)]
enum Step<'s> {
    Key(&'s str),
    Item(usize),
}

impl<'f> Places<'f> {
    fn new(file: &'f Path, text: &str) -> Result<Self, Problem> {
        Ok(Self { file, root: yaml::nodes(file, text)? })
    }

    /// A problem at the value that `steps` lead to, or at the last one on the way that the file has.
    fn problem(&self, steps: &[Step<'_>], what: impl Into<String>) -> Problem {
        let mut node = &self.root;
        for step in steps {
            let next = match (step, &node.value) {
                (Key(key), Value::Map(entries)) => entries
                    .iter()
                    .find(|(name, _)| matches!(&name.value, Value::Text(text) if text == key))
                    .map(|(_, value)| value),
                (Item(index), Value::List(items)) => items.get(*index),
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        Problem { line: Some(node.line), column: Some(node.column), ..Problem::of_file(self.file, what) }
    }
}

fn check(config: &Config, places: &Places<'_>) -> Problems {
    let mut problems = Problems::default();
    servers(config, places, &mut problems);
    authorize::check(config, places, &mut problems);
    issuers::check(&config.issuers, places, &mut problems);
    tls(config, places, &mut problems);
    kernel(config, places, &mut problems);
    limits(config, places, &mut problems);
    audit(config, places, &mut problems);
    problems
}

fn servers(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    if config.servers.is_empty() {
        let problem = places.problem(&[Key("servers")], "no server is protected");
        problems.push(problem.with_hint("add one: `- {name: my-server, port: 3001}`"));
    }
    let (mut names, mut ports) = (HashMap::new(), HashMap::new());
    for (index, server) in config.servers.iter().enumerate() {
        let at = |key| [Key("servers"), Item(index), Key(key)];
        if names.insert(&server.name, index).is_some() {
            let problem = places.problem(&at("name"), format!("another server is called {}", server.name));
            problems.push(problem.with_hint("policies name servers by this name, so each has its own"));
        }
        if let Some(first) = ports.insert((&server.place, server.port), &server.name) {
            let what = format!("port {} is already that of {first}", server.port);
            let problem = places.problem(&at("port"), what);
            problems.push(problem.with_hint("one port is one server; one in a container says so with `in:`"));
        }
        if let Place::Netns(path) = &server.place
            && !path.is_absolute()
        {
            let what = format!("{} is not an absolute path", path.display());
            let problem = places.problem(&at("in"), what);
            problems.push(problem.with_hint("name the namespace's file, such as /run/netns/blue"));
        }
        if let Some((what, hint)) = endpoint(&server.path) {
            let problem = places.problem(&at("path"), format!("path {:?} {what}", server.path));
            problems.push(problem.with_hint(hint));
        }
        if let Some(path) = &server.sse_path {
            let same =
                || ("is that of `path` too", "HTTP+SSE and Streamable HTTP each have their own".to_owned());
            let fault = endpoint(path).or_else(|| (*path == server.path).then(same));
            if let Some((what, hint)) = fault {
                let problem = places.problem(&at("sse_path"), format!("sse_path {path:?} {what}"));
                problems.push(problem.with_hint(hint));
            }
        }
        oauth_paths((server, index), places, problems);
        credential::check((server, index), places, problems);
    }
}

fn oauth_paths((server, index): (&Server, usize), places: &Places<'_>, problems: &mut Problems) {
    let at = |last| [Key("servers"), Item(index), Key("oauth_paths"), last];
    if !server.oauth_paths.is_empty() && !server.forward_authorization {
        let what =
            "oauth_paths are for tokens that the server checks, and without forwarding none reaches it";
        let problem = places.problem(&at(Item(0)), what);
        problems.push(problem.with_hint("add `forward_authorization: true`, or remove them"));
    }
    for (number, path) in server.oauth_paths.iter().enumerate() {
        let is_mcp = *path == server.path || server.sse_path.as_ref() == Some(path);
        let mcp = || ("is that of MCP", "messages of MCP go to `path` alone".to_owned());
        let star = || ("has a `*`", "name each path; there are no patterns".to_owned());
        let twice = || ("is there twice", "remove one".to_owned());
        let fault = endpoint(path)
            .or_else(|| is_mcp.then(mcp))
            .or_else(|| path.contains('*').then(star))
            .or_else(|| server.oauth_paths[..number].contains(path).then(twice));
        if let Some((what, hint)) = fault {
            let problem = places.problem(&at(Item(number)), format!("oauth path {path:?} {what}"));
            problems.push(problem.with_hint(hint));
        }
    }
}

/// What is wrong with a path.
fn endpoint(path: &str) -> Option<(&'static str, String)> {
    if !path.starts_with('/') {
        let path =
            path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or(path, |(_, path)| path);
        return Some(("does not begin with '/'", format!("write /{path}")));
    }
    if path.contains(['?', '#']) {
        return Some(("has a query or fragment", "write the path alone".into()));
    }
    let is_odd = |b: u8| b <= b' ' || b >= 0x7f || b == b'\\' || b == b'%';
    if path.bytes().any(is_odd)
        || path.contains("//")
        || path.split('/').any(|part| part == "." || part == "..")
    {
        return Some(("has more than one spelling", "use plain names between single slashes".into()));
    }
    None
}

fn tls(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    match (&config.tls.certificate, &config.tls.key) {
        (Some(_), None) => {
            let problem = places.problem(&[Key("tls"), Key("certificate")], "a certificate without its key");
            problems.push(problem.with_hint("add `key:` with the PEM file of its private key"));
        }
        (None, Some(_)) => {
            let problem = places.problem(&[Key("tls"), Key("key")], "a key without its certificate");
            problems.push(problem.with_hint("add `certificate:` with the PEM file of the chain"));
        }
        (Some(_), Some(_)) if !config.tls.names.is_empty() => {
            let problem =
                places.problem(&[Key("tls"), Key("names")], "`names` is for the local CA's certificate only");
            problems.push(problem.with_hint("remove it: your certificate has its own names"));
        }
        _ => {}
    }
    if config.tls.client_ca.is_empty() && !config.tls.client_crl.is_empty() {
        let problem = places.problem(&[Key("tls"), Key("client_crl")], "client_crl without client_ca");
        problems.push(problem.with_hint("add `client_ca:` with the PEM file of the CA whose list it is"));
    }
    for (index, name) in config.tls.names.iter().enumerate() {
        if rustls_pki_types::ServerName::try_from(name.as_str()).is_err() {
            let steps = [Key("tls"), Key("names"), Item(index)];
            let problem = places.problem(&steps, format!("{name:?} is neither a DNS name nor an IP address"));
            problems.push(problem.with_hint("write it without scheme, port and path"));
        }
    }
}

fn kernel(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    let is_one_name = |text: &str| {
        !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !is_one_name(&config.kernel.pins) {
        let what = format!("pins {:?} is not a directory's name", config.kernel.pins);
        let problem = places.problem(&[Key("kernel"), Key("pins")], what);
        problems.push(problem.with_hint("use up to 64 letters, digits, '-' and '_'"));
    }
    let is_below_root = |cgroup: &str| {
        let mut parts = Path::new(cgroup).components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    for (index, cgroup) in config.kernel.watch.iter().enumerate() {
        let at = [Key("kernel"), Key("watch"), Item(index)];
        if !is_below_root(cgroup) {
            let problem = places.problem(&at, format!("{cgroup:?} is not a path below the cgroup2 root"));
            problems.push(
                problem.with_hint("write it without a leading '/' and without '..', such as agents.slice"),
            );
        } else if Path::new(&config.kernel.cgroup).starts_with(cgroup) {
            problems.push(places.problem(&at, format!("the guard's own cgroup is below {cgroup:?}")));
        }
    }
    if !is_below_root(&config.kernel.cgroup) {
        let what = format!("cgroup {:?} is not a path below the cgroup2 root", config.kernel.cgroup);
        let problem = places.problem(&[Key("kernel"), Key("cgroup")], what);
        problems
            .push(problem.with_hint("write it without a leading '/' and without '..', such as mcp-guard"));
    }
}

fn audit(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    if config.audit.heartbeat_seconds == 0 {
        let at = [Key("audit"), Key("heartbeat_seconds")];
        let problem = places.problem(&at, "heartbeat_seconds is 0: records without end");
        problems.push(problem.with_hint("write a number from 1 on, or remove the line for the default, 60"));
    }
    trail::check(&config.audit, places, problems);
    checkpoints::check(config, places, problems);
}

fn limits(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    /// Reading is recursive; deeper than this, the stack would be the limit.
    const JSON_DEPTH_MAX: usize = 256;
    // Every limit is a whole number, so one look at them as data finds each 0, also of limits yet to come.
    if let Ok(serde_json::Value::Object(limits)) = serde_json::to_value(&config.limits) {
        for (name, _) in limits.iter().filter(|(_, value)| value.as_u64() == Some(0)) {
            let problem =
                places.problem(&[Key("limits"), Key(name)], format!("{name} is 0: nothing would pass"));
            problems.push(problem.with_hint("write a number from 1 on, or remove the line for the default"));
        }
    }
    if config.limits.json_depth_max > JSON_DEPTH_MAX {
        let what = format!("json_depth_max is more than {JSON_DEPTH_MAX}");
        problems.push(places.problem(&[Key("limits"), Key("json_depth_max")], what));
    }
}

#[cfg(test)]
mod tests;
