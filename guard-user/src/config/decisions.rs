//! `approvals.json` in `state_dir`: what operators decided about listeners in watched cgroups. Written by the guard.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, Server, read_bounded};

/// The file, in `state_dir`. Made with mode 0600.
pub const DECISIONS_FILE: &str = "approvals.json";
/// Most bytes of the file; a decision has a few hundred.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Decisions that are kept.
pub const DECISIONS_MAX: usize = 4096;

/// All decisions of one guard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    decisions: Vec<Decision>,
}

/// What was decided about a port of the processes in a cgroup. Whoever starts there again on that port is meant too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// cgroup2 path.
    pub cgroup: String,
    pub port: NonZeroU16,
    pub verdict: Verdict,
    /// With [`Verdict::Guarded`]: its entry, as in `guard.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// When, in UTC.
    pub at: String,
}

/// What becomes of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everybody may reach it.
    Open,
    /// It is a protected server. Until the guard serves it, nobody reaches it.
    Guarded,
    /// Nobody reaches it.
    Refused,
}

impl Decisions {
    /// Those in `state_dir`; none if no decision was made yet.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        match read_bounded(&file(state_dir), FILE_BYTES_MAX) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file in one step.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        fs::create_dir_all(state_dir)?;
        let mut next = tempfile::NamedTempFile::new_in(state_dir)?;
        next.write_all(&serde_json::to_vec_pretty(self)?)?;
        next.as_file().sync_all()?;
        next.persist(file(state_dir)).map_err(|error| error.error)?;
        Ok(())
    }

    pub fn of(&self, cgroup: &str, port: u16) -> Option<&Decision> {
        self.decisions.iter().find(|decision| decision.cgroup == cgroup && decision.port.get() == port)
    }

    /// Puts a decision in the place of the one before. `false`: there is no room.
    pub fn decide(&mut self, decision: Decision) -> bool {
        self.decisions.retain(|before| before.cgroup != decision.cgroup || before.port != decision.port);
        let is_room = self.decisions.len() < DECISIONS_MAX;
        if is_room {
            self.decisions.push(decision);
        }
        is_room
    }

    /// The entries of servers that were approved.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        let guarded = self.decisions.iter().filter(|decision| decision.verdict == Verdict::Guarded);
        guarded.filter_map(|decision| decision.server.as_ref())
    }
}

impl Config {
    /// Adds the servers that were approved to those of `guard.yaml`, which wins where both name one. Who may not read the
    /// decisions, such as an operator who only checks files, has none.
    pub(super) fn add_approved(&mut self) -> io::Result<()> {
        let decisions = match Decisions::load(&self.state_dir) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
            decisions => decisions?,
        };
        for server in decisions.servers() {
            let is_same = |known: &Server| {
                known.name == server.name || (known.port == server.port && known.place == server.place)
            };
            if !self.servers.iter().any(is_same) {
                self.servers.push(server.clone());
            }
        }
        Ok(())
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(DECISIONS_FILE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;
    use crate::config::Overrides;

    fn decision(cgroup: &str, port: u16, verdict: Verdict) -> Decision {
        let port = NonZeroU16::new(port).unwrap();
        Decision { cgroup: cgroup.into(), port, verdict, server: None, at: "2026-11-21T00:00:00Z".into() }
    }

    #[test]
    fn decisions_outlive_the_guard_and_the_last_one_holds() {
        let dir = tempfile::tempdir().unwrap();
        let mut decisions = Decisions::load(dir.path()).unwrap();
        assert_eq!(decisions, Decisions::default());
        assert!(decisions.decide(decision("/a", 1, Verdict::Open)));
        assert!(decisions.decide(decision("/a", 1, Verdict::Refused)));
        assert!(decisions.decide(decision("/a", 2, Verdict::Open)));
        decisions.save(dir.path()).unwrap();
        let loaded = Decisions::load(dir.path()).unwrap();
        assert_eq!(loaded, decisions);
        assert_eq!(loaded.of("/a", 1).map(|decision| decision.verdict), Some(Verdict::Refused));
        assert_eq!(loaded.of("/b", 1), None);
        let mode = fs::metadata(dir.path().join(DECISIONS_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join(DECISIONS_FILE), "{").unwrap();
        assert!(Decisions::load(dir.path()).is_err(), "a file that cannot be read is not taken for none");
    }

    #[test]
    fn there_is_room_for_so_many_and_a_change_of_mind_needs_none() {
        let mut decisions = Decisions::default();
        for number in 0..DECISIONS_MAX {
            assert!(decisions.decide(decision(&format!("/{number}"), 1, Verdict::Open)));
        }
        assert!(!decisions.decide(decision("/one-more", 1, Verdict::Open)));
        assert!(decisions.decide(decision("/7", 1, Verdict::Refused)));
    }

    #[test]
    fn an_approved_server_is_one_of_the_configured_ones_unless_the_file_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let server = |name: &str, port: u16| {
            serde_json::from_value::<Server>(json!({"name": name, "port": port})).unwrap()
        };
        let mut decisions = Decisions::default();
        for (port, name) in [(1, "mine"), (2, "new"), (3, "other")] {
            let decision = decision("/a", port, Verdict::Guarded);
            decisions.decide(Decision { server: Some(server(name, port)), ..decision });
        }
        decisions.save(dir.path()).unwrap();
        let text = "servers: [{name: mine, port: 9}, {name: theirs, port: 3}]";
        let file = dir.path().join("guard.yaml");
        fs::write(&file, text).unwrap();
        let overrides =
            Overrides { config: file, state_dir: Some(dir.path().into()), ..Overrides::default() };
        let names: Vec<String> =
            overrides.load().unwrap().servers.iter().map(|s| s.name.to_string()).collect();
        assert_eq!(names, ["mine", "theirs", "new"]);
    }
}
