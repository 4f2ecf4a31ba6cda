//! A network of its own for each test: a namespace in which the guard and the server run, and another one from
//! which remote clients come. Nothing of it has a name on the host, so nothing of it can stay behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;
use crate::process::copy_program;
use crate::residue::Ids;
use mcp_guard::config::Kernel;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

/// The port that tests protect; each world has its own network.
pub const PORT: u16 = 3001;
/// Addresses of the host namespace on the link to the remote one.
pub const HOST_V4: &str = "10.77.0.1";
pub const HOST_V6: &str = "fd77::1";
/// Address of the remote namespace on that link.
pub const REMOTE_V4: &str = "10.77.0.2";
const REMOTE_V6: &str = "fd77::2";
/// An ordinary user.
pub const NOBODY: u32 = 65_534;

/// A network namespace that lives as long as this value and the processes in it.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new namespace with `lo` up.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the privileged tests need root: they load kernel programs"
        );
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            File::open("/proc/thread-self/ns/net").expect("the new namespace")
        })
        .join()
        .expect("the thread that made the namespace");
        let netns = Self::of(file);
        netns.ip("link set lo up");
        netns
    }

    /// Runs `f` on a thread in this namespace; processes that it starts are in it too.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
                    f()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The namespace's file, good as long as this value.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// The namespace that this file stands for.
    pub fn of(file: File) -> Self {
        let netns = Self { file };
        // Link-local addresses are good at once. A host without IPv6 has no such setting.
        let quick = || fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        let _absent = netns.run(quick);
        netns
    }

    /// Runs `ip` in this namespace.
    pub fn ip(&self, arguments: &str) {
        self.run(|| {
            let output =
                Command::new("ip").args(arguments.split(' ')).output().expect("`ip` of iproute2 runs");
            assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        });
    }

    /// Changes a setting below `/proc/sys/net` in this namespace.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a test in a world of its own. Afterwards, whatever the test started is unloaded, and nothing of it may be left
/// in the kernel.
pub fn test(body: impl FnOnce(&World)) {
    let world = World::new();
    body(&world);
    let ids = std::mem::take(&mut *world.ids.lock().expect("no test thread panicked"));
    world.unload();
    ids.assert_gone(&world);
}

/// One test's network, files and names.
#[derive(Debug)]
pub struct World {
    pub host: Netns,
    pub remote: Netns,
    pub kernel: Kernel,
    ids: Mutex<Ids>,
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = Netns::new();
        let remote = Netns::new();
        host.ip(&format!("link add mg0 type veth peer name mg1 netns {}", remote.path().display()));
        for (netns, link, v4, v6) in
            [(&host, "mg0", HOST_V4, HOST_V6), (&remote, "mg1", REMOTE_V4, REMOTE_V6)]
        {
            netns.ip(&format!("addr add {v4}/24 dev {link}"));
            netns.ip(&format!("addr add {v6}/64 dev {link} nodad"));
            netns.ip(&format!("link set {link} up"));
        }
        let kernel =
            Kernel { bpffs: "/sys/fs/bpf".into(), pins: name.clone(), cgroup: name, ..Kernel::default() };
        Self {
            host,
            remote,
            kernel,
            ids: Mutex::default(),
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// A directory that goes with the world.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Adds what a guard loaded after its start to what must be gone in the end.
    pub fn note(&self, status: &Value) {
        self.ids.lock().expect("no test thread panicked").add(status);
    }

    pub fn pins(&self) -> PathBuf {
        self.kernel.bpffs.join(&self.kernel.pins)
    }

    /// Starts a guard that protects [`PORT`]; returns when it serves.
    pub fn guard(&self) -> Process {
        self.guard_outcome().expect("the guard starts")
    }

    /// As `guard`, or what it said when it did not start.
    pub fn guard_outcome(&self) -> Result<Process, String> {
        self.start_guard(&self.host)
    }

    /// Starts a guard with this world's names in another world's network.
    pub fn guard_in(&self, netns: &Netns) -> Process {
        self.start_guard(netns).expect("the guard starts")
    }

    /// As `guard_in`, or what it said when it did not start.
    pub fn guard_in_outcome(&self, netns: &Netns) -> Result<Process, String> {
        self.start_guard(netns)
    }

    /// Starts a guard for these `servers` of guard.yaml.
    pub fn guard_for(&self, servers: &Value) -> Process {
        self.start_guard_with(&self.host, servers, &json!({})).expect("the guard starts")
    }

    fn start_guard(&self, netns: &Netns) -> Result<Process, String> {
        self.start_guard_with(netns, &one_server(), &json!({}))
    }

    /// Starts a guard with `limits`.
    pub fn guard_with(&self, limits: &Value) -> Process {
        self.start_guard_with(&self.host, &one_server(), limits).expect("the guard starts")
    }

    fn start_guard_with(&self, netns: &Netns, servers: &Value, limits: &Value) -> Result<Process, String> {
        self.start_guard_by(netns, Command::new(program("steer-probe")), |config| {
            config["servers"] = servers.clone();
            config["limits"] = limits.clone();
        })
    }

    /// Starts a guard that has these capabilities (`sys_admin`, ...) and no others; or what it said.
    pub fn guard_with_capabilities(&self, names: &[&str]) -> Result<Process, String> {
        // The root of the tree is open to nobody without CAP_DAC_OVERRIDE; the daemon makes this before it gives that up.
        fs::create_dir_all(cgroup2_root().join(&self.kernel.cgroup)).map_err(|error| error.to_string())?;
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set=-all,+{}", names.join(",+"))).arg(program("steer-probe"));
        self.start_guard_by(&self.host, command, |_config| {})
    }

    /// Starts a guard whose configuration `change` has changed.
    pub fn guard_where(&self, change: impl FnOnce(&mut Value)) -> Result<Process, String> {
        self.start_guard_where(&self.host, change)
    }

    /// The same, with files of its own in the place of `/etc/resolv.conf` and `/etc/hosts`.
    pub fn guard_resolving_by(
        &self,
        resolv_conf: &str,
        hosts: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Process, String> {
        for (name, text) in [("resolv.conf", resolv_conf), ("hosts", hosts)] {
            fs::write(self.dir.path().join(name), text).expect("writing the file");
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-ec"]);
        command.arg(
            "mount --bind \"$0/resolv.conf\" /etc/resolv.conf; mount --bind \"$0/hosts\" /etc/hosts; exec \"$@\"",
        );
        command.arg(self.dir.path()).arg(program("steer-probe"));
        self.start_guard_by(&self.host, command, change)
    }

    /// The same in another world's network.
    pub fn guard_where_in(&self, netns: &Netns, change: impl FnOnce(&mut Value)) -> Result<Process, String> {
        self.start_guard_where(netns, change)
    }

    fn start_guard_where(&self, netns: &Netns, change: impl FnOnce(&mut Value)) -> Result<Process, String> {
        self.start_guard_by(netns, Command::new(program("steer-probe")), change)
    }

    fn start_guard_by(
        &self,
        netns: &Netns,
        mut probe: Command,
        change: impl FnOnce(&mut Value),
    ) -> Result<Process, String> {
        let mut config = json!({"servers": one_server(), "kernel": self.kernel});
        change(&mut config);
        let path = self.dir.path().join("guard.json");
        fs::write(&path, config.to_string()).expect("writing the configuration");
        let mut guard = netns.run(|| Process::start(probe.arg("guard").arg(&path)))?;
        self.ids.lock().expect("no test thread panicked").add(&guard.ask("status"));
        Ok(guard)
    }

    /// Removes what guards left in the kernel, as `mcp-guard unload` does. To be called when they are dead.
    pub fn unload(&self) -> Vec<PathBuf> {
        // The cgroup is busy for a moment after its last process died.
        let end = Instant::now() + Duration::from_secs(10);
        let mut pins = Vec::new();
        loop {
            let unloaded = mcp_guard::kernel::unload(&self.kernel).expect("unloading");
            pins.extend(unloaded.pins);
            if unloaded.left.is_empty() {
                return pins;
            }
            assert!(Instant::now() < end, "left behind: {:?}", unloaded.left);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a server on these addresses as an ordinary user.
    pub fn server(&self, addresses: &[&str]) -> Process {
        self.server_as(NOBODY, addresses)
    }

    pub fn server_as(&self, uid: u32, addresses: &[&str]) -> Process {
        self.server_kind("server", uid, addresses)
    }

    /// As `server`, on as many addresses as open files allow.
    pub fn server_of(&self, addresses: &[String]) -> Process {
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        self.server(&addresses)
    }

    /// As `server`, in another namespace.
    pub fn server_in(&self, netns: &Netns, addresses: &[&str]) -> Process {
        self.start_server(netns, "server", NOBODY, addresses)
    }

    /// `kind`: `server`, `shared` or `shadow`, see steer-probe.
    pub fn server_kind(&self, kind: &str, uid: u32, addresses: &[&str]) -> Process {
        self.start_server(&self.host, kind, uid, addresses)
    }

    /// As `server_kind`, or what it said when it did not start.
    pub fn server_kind_outcome(&self, kind: &str, uid: u32, addresses: &[&str]) -> Result<Process, String> {
        self.try_server(&self.host, kind, uid, addresses)
    }

    fn start_server(&self, netns: &Netns, kind: &str, uid: u32, addresses: &[&str]) -> Process {
        self.try_server(netns, kind, uid, addresses).expect("the server starts")
    }

    fn try_server(&self, netns: &Netns, kind: &str, uid: u32, addresses: &[&str]) -> Result<Process, String> {
        let program = self.public_probe();
        netns.run(|| Process::start(Command::new(program).arg(kind).args(addresses).uid(uid)))
    }

    /// Starts an ordinary user's probe in a cgroup.
    pub fn probe_in(&self, cgroup: &Cgroup, arguments: &[&str]) -> Process {
        self.probe_in_outcome(cgroup, arguments).expect("the probe starts")
    }

    /// As `probe_in`, or what it said when it did not start.
    pub fn probe_in_outcome(&self, cgroup: &Cgroup, arguments: &[&str]) -> Result<Process, String> {
        self.probe_inside(&self.host, cgroup, arguments)
    }

    /// The same in another namespace, as in a container.
    pub fn probe_inside(
        &self,
        netns: &Netns,
        cgroup: &Cgroup,
        arguments: &[&str],
    ) -> Result<Process, String> {
        let mut command = cgroup.command(NOBODY, &self.public_probe());
        command.args(arguments);
        netns.run(|| Process::start(&mut command))
    }

    /// What an ordinary user's client meets from a cgroup of the host.
    pub fn client_in(&self, cgroup: &Cgroup, ip: IpAddr) -> Value {
        let mut command = cgroup.command(NOBODY, &self.public_probe());
        command.arg("client").arg(std::net::SocketAddr::new(ip, PORT).to_string());
        let output = self.host.run(|| command.output().expect("the client runs"));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("the client failed: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// What an ordinary user's client in `netns` meets.
    pub fn client(&self, netns: &Netns, ip: IpAddr) -> Value {
        let program = self.public_probe();
        let address = std::net::SocketAddr::new(ip, PORT).to_string();
        let output = netns.run(|| {
            Command::new(program)
                .arg("client")
                .arg(address)
                .uid(NOBODY)
                .gid(NOBODY)
                .output()
                .expect("the client runs")
        });
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("the client failed: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn public_probe(&self) -> PathBuf {
        self.public_program("steer-probe")
    }

    /// A copy of a program that an ordinary user can start, wherever the repository is.
    pub fn public_program(&self, name: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        if !path.exists() {
            fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755))
                .expect("opening the directory");
            copy_program(&program(name), &path).expect("copying the program");
        }
        path
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that failed must not leave closed ports behind; its processes are gone by now.
        if thread::panicking()
            && let Err(error) = mcp_guard::kernel::unload(&self.kernel)
        {
            eprintln!("cleaning up after the failed test: {error:#}");
        }
    }
}

fn one_server() -> Value {
    json!([{"name": "demo", "port": PORT}])
}

/// Where cgroup2 is mounted.
pub fn cgroup2_root() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let line = table.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
    line.split(' ').nth(4).expect("a mount point").into()
}

/// Tests and the programs that they start are built together.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let dir = test.parent().and_then(Path::parent).expect("the build directory");
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run the tests with `cargo xtask test`", path.display());
    path
}

/// A child that said `{"ready":true}`. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a program that says a line when it is ready; or what it said instead.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        // From the first moment: a child that has much to say must not wait for a reader.
        let log = Arc::new(Mutex::new(String::new()));
        let (errors, copy) = (child.stderr.take().expect("piped"), Arc::clone(&log));
        let copying = thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                copy.lock().expect("no panic").push_str(&(line + "\n"));
            }
        });
        let mut line = String::new();
        output.read_line(&mut line).map_err(|error| error.to_string())?;
        if line.is_empty() {
            child.wait().map_err(|error| error.to_string())?;
            copying.join().expect("no panic");
            return Err(log.lock().expect("no panic").clone());
        }
        Ok(Self { child, input, output, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command and returns the one line of JSON that answers it.
    pub fn ask(&mut self, command: &str) -> Value {
        writeln!(self.input, "{command}").expect("the process takes commands");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the process answers");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command}: no JSON: {line:?}"))
    }

    /// The next line that the process prints of itself.
    pub fn next_word(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the process goes on");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
    }

    /// Asks until the answer fits; panics with the last one after a generous time.
    pub fn ask_until(&mut self, command: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = self.ask(command);
            if fits(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{command}: still {answer:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// What the process has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
