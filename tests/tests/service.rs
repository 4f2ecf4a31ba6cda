//! What the service manager hears of a daemon's life.

use std::fs;
use std::time::Duration;

use guard_tests::manager::Manager;
use guard_tests::probe::connect;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, POLICY, Scene, apart, guard};
use rustix::process::Signal;
use serde_json::json;

/// More than any of these takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// The service manager's patience in these tests.
const WATCHDOG: Duration = Duration::from_secs(2);

fn scene_with(manager: &Manager, watchdog: Option<Duration>) -> Scene {
    Scene::with(&json!({}), |daemon| {
        daemon.environment.extend([manager.variable()]);
        if let Some(patience) = watchdog {
            daemon.environment.insert("WATCHDOG_USEC".into(), patience.as_micros().to_string());
        }
        Ok(())
    })
    .unwrap()
}

#[test]
fn ready_is_told_after_the_proof_and_the_end_before_it_comes() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let mut scene = scene_with(&manager, None);
        manager.wait_for("READY=1", 0, LIMIT).unwrap();
        let lines: Vec<_> = manager.told.iter().map(|(_, line)| line.as_str()).collect();
        let (starting, ready) = (
            lines.iter().position(|line| line.starts_with("STATUS=starting")).unwrap(),
            lines.iter().position(|line| *line == "READY=1").unwrap(),
        );
        assert!(starting < ready, "{lines:?}");
        assert_eq!(lines[ready + 1], "STATUS=protected: 1 server(s)", "{lines:?}");
        scene.daemon.stop().unwrap();
        manager.wait_for("STOPPING=1", 0, LIMIT).unwrap();
    });
}

#[test]
fn stopped_is_closed_and_unloaded_is_open_and_both_say_so() {
    apart(|| {
        let mut scene = Scene::new(&json!({})).unwrap();
        let said = |scene: &Scene, verb: &str| {
            let output = scene.daemon.output(verb, &[]).unwrap();
            assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let early = scene.daemon.output("unload", &[]).unwrap();
        assert!(
            String::from_utf8_lossy(&early.stderr).contains("`mcp-guard stop`"),
            "a running guard is stopped first"
        );
        let words = said(&scene, "stop");
        assert!(words.contains("has ended") && words.contains("(3001) stay CLOSED"), "{words}");
        scene.daemon.wait_for_end().unwrap();
        let log = scene.daemon.log().unwrap();
        assert!(
            log.contains("stopped: the servers' ports (3001) stay CLOSED. `mcp-guard run` serves again"),
            "{log}"
        );
        assert_eq!(connect(ADDRESS)["refused"], true);
        let words = said(&scene, "stop");
        assert!(words.contains("No guard is running") && words.contains("stay CLOSED"), "{words}");
        let words = said(&scene, "unload");
        assert!(words.contains("ports (3001) are open: nothing protects them"), "{words}");
        assert_eq!(connect(ADDRESS)["refused"], serde_json::Value::Null);
    });
}

#[test]
fn a_guard_of_a_manager_is_not_stopped_behind_its_back() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::new(dir.path()).unwrap();
        let scene = scene_with(&manager, None);
        let output = scene.daemon.output("stop", &[]).unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && words.contains("systemctl stop mcp-guard"), "{words}");
        assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true);
    });
}

#[test]
fn a_reload_is_told_from_its_begin_to_its_end_also_when_it_fails() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let scene = scene_with(&manager, None);
        manager.wait_for("READY=1", 0, LIMIT).unwrap();
        for policy in [POLICY, "nonsense"] {
            scene.daemon.write_policy("policy.yaml", policy).unwrap();
            let seen = manager.told.len();
            scene.daemon.signal(Signal::HUP).unwrap();
            manager.wait_for("READY=1", seen, LIMIT).unwrap();
            let lines: Vec<_> = manager.told.iter().skip(seen).map(|(_, line)| line.as_str()).collect();
            assert_eq!(lines[0], "RELOADING=1", "{lines:?}");
            assert!(lines[1].starts_with("MONOTONIC_USEC="), "{lines:?}");
            assert_eq!(lines[2], "READY=1", "{lines:?}");
        }
        assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true);
    });
}

#[test]
fn signs_of_life_come_while_all_parts_move_and_stop_when_the_daemon_does() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let patience = 3 * WATCHDOG;
        let scene = scene_with(&manager, Some(patience));
        manager.wait_for("READY=1", 0, LIMIT).unwrap();
        let signs = |manager: &Manager| manager.count("WATCHDOG=1");
        let enough = eventually(LIMIT, || {
            manager.listen()?;
            Ok((signs(&manager) >= 4).then_some(()))
        });
        assert!(enough.unwrap().is_some(), "{:?}", manager.told);
        let times: Vec<_> =
            manager.told.iter().filter(|(_, line)| line == "WATCHDOG=1").map(|(at, _)| *at).collect();
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap < patience), "{gaps:?}");
        scene.daemon.signal(Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        manager.listen().unwrap();
        let before = signs(&manager);
        std::thread::sleep(patience);
        manager.listen().unwrap();
        assert_eq!(signs(&manager), before, "a stopped process gives no sign");
        scene.daemon.signal(Signal::CONT).unwrap();
    });
}

#[test]
fn one_part_that_stands_still_is_enough_to_give_no_sign() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let scene = scene_with(&manager, Some(WATCHDOG));
        manager.wait_for("WATCHDOG=1", 0, LIMIT).unwrap();
        let freezer = Frozen::new(&scene, "audit-writer");
        std::thread::sleep(WATCHDOG);
        manager.listen().unwrap();
        let before = manager.count("WATCHDOG=1");
        std::thread::sleep(WATCHDOG);
        manager.listen().unwrap();
        let after = manager.count("WATCHDOG=1");
        drop(freezer);
        assert_eq!(after, before, "{:?}", manager.told);
        let seen = manager.told.len();
        manager.wait_for("WATCHDOG=1", seen, LIMIT).unwrap();
        let log = scene.daemon.log().unwrap();
        assert!(log.contains("the audit writer"), "the log names it: {log}");
    });
}

#[test]
fn a_hangup_while_the_daemon_starts_does_not_end_it() {
    apart(|| {
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::new(dir.path()).unwrap();
        daemon.environment.extend([manager.variable()]);
        daemon.write_config().unwrap();
        let mut command = daemon.command("run");
        command.envs(&daemon.environment);
        let log = fs::File::create(daemon.log_file()).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = guard_tests::process::Process::spawn(None, command).unwrap();
        // As soon as it is the program's own fault what a hangup does, to long after its start.
        let ours = eventually(START_LIMIT, || Ok(minds_hangups(process.pid()).then_some(())));
        assert!(ours.unwrap().is_some());
        let protects = eventually(START_LIMIT, || {
            process.signal(Signal::HUP)?;
            anyhow::ensure!(process.ended()?.is_none(), "it ended: {}", daemon.log()?);
            let status = daemon.status().ok();
            Ok(status.filter(|status| status["kernel"]["protected"] == true))
        });
        let protects = protects.map(|status| status.is_some());
        drop(process);
        daemon.unload().unwrap();
        assert!(protects.unwrap());
    });
}

/// Whether it holds hangups back or catches them.
fn minds_hangups(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let sets =
        status.lines().filter_map(|line| line.strip_prefix("SigBlk:").or(line.strip_prefix("SigCgt:")));
    sets.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).any(|set| set & 1 == 1)
}

/// A thread of the daemon that gets no time.
struct Frozen {
    thread: i32,
}

impl Frozen {
    fn new(scene: &Scene, name: &str) -> Self {
        let pid = scene.daemon.pid().unwrap();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
        let is_it = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let path = threads.into_iter().find(is_it).unwrap();
        let thread: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let traced = nix::unistd::Pid::from_raw(thread);
        nix::sys::ptrace::seize(traced, nix::sys::ptrace::Options::empty()).unwrap();
        nix::sys::ptrace::interrupt(traced).unwrap();
        Self { thread }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let traced = nix::unistd::Pid::from_raw(self.thread);
        // `wait` first: only a thread that has stopped can be let go.
        let flags = nix::sys::wait::WaitPidFlag::__WALL;
        let _stopped = nix::sys::wait::waitpid(traced, Some(flags));
        let _gone_on = nix::sys::ptrace::detach(traced, None);
    }
}
