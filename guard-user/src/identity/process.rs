//! The process in which an agent's credential works.

use crate::kernel::process::FileDigest;
use crate::kernel::{Client, Container, Evidence, Unit};

/// What an agent's entry asks of the process that presents its credential. All that is named must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessRule {
    pub uid: Option<u32>,
    pub unit: Option<Unit>,
    pub container: Option<Container>,
    /// Path of the executable: on the host or, together with `container`, as the container names it.
    pub executable: Option<String>,
    pub sha256: Option<FileDigest>,
}

/// Why a process is not the one that an agent's entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WrongProcess {
    #[error("it works for a process of this host only, and this connection comes from elsewhere")]
    Remote,
    #[error("it works for one process only, and one in another network namespace cannot be told for sure")]
    Neighbour,
    #[error("it works for one process only, and which process this is cannot be told")]
    Unknown,
    #[error("it works for one process only, and {0} hands on connections of others")]
    Relay(&'static str),
    #[error("it works for another process: the {0} differs")]
    Differs(&'static str),
}

impl ProcessRule {
    /// Whether the executable must be read to tell.
    pub fn needs_digest(&self) -> bool {
        self.sha256.is_some()
    }

    /// Whether `client` is the process. `digest` is that of its executable, if it is known.
    pub fn check(&self, client: &Client, digest: Option<&FileDigest>) -> Result<(), WrongProcess> {
        match client {
            Client::Process(evidence) => match self.difference(evidence, digest) {
                Some(field) => Err(WrongProcess::Differs(field)),
                None => Ok(()),
            },
            Client::Relay { name, .. } => Err(WrongProcess::Relay(name)),
            Client::Neighbour { .. } => Err(WrongProcess::Neighbour),
            Client::UnknownLocal => Err(WrongProcess::Unknown),
            Client::Remote => Err(WrongProcess::Remote),
        }
    }

    /// The same where there is no secret: a number of a user means another one in a container, so a rule that names no
    /// container is for none.
    pub(super) fn check_alone(
        &self,
        client: &Client,
        digest: Option<&FileDigest>,
    ) -> Result<(), WrongProcess> {
        match client {
            Client::Process(evidence) if self.container.is_none() && evidence.place.container.is_some() => {
                Err(WrongProcess::Differs("container"))
            }
            _ => self.check(client, digest),
        }
    }

    /// The first thing that is not as asked for. What is not known is not as asked for.
    fn difference(&self, evidence: &Evidence, digest: Option<&FileDigest>) -> Option<&'static str> {
        let place = &evidence.place;
        if self.uid.is_some_and(|uid| uid != evidence.process.uid) {
            return Some("uid");
        }
        if self.unit.is_some() && self.unit != place.unit {
            return Some("unit");
        }
        if let Some(container) = &self.container
            && !place.container.as_ref().is_some_and(|found| container.names(found))
        {
            return Some("container");
        }
        if self.executable.as_ref().is_some_and(|path| !self.runs(path, evidence)) {
            return Some("executable");
        }
        (self.sha256.is_some() && self.sha256.as_ref() != digest).then_some("sha256")
    }

    /// A path names a file of the host. In a file system of its own, anybody can put any file at any path, so there it
    /// counts only inside the container that the entry names.
    fn runs(&self, path: &str, evidence: &Evidence) -> bool {
        let executable = evidence.running.as_ref().and_then(|running| running.executable.as_ref());
        executable.is_some_and(|found| found.path == *path && (found.is_hosts || self.container.is_some()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::process::{Executable, Place, Running};
    use crate::types::LocalProcess;

    const ID: &str = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef";

    pub(in crate::identity) fn evidence(uid: u32, path: &str, executable: Option<Executable>) -> Evidence {
        let process =
            LocalProcess { pid: 7, uid, gid: 0, cgroup: 1, comm: "agent".into(), cookie: 5, connected_at: 6 };
        let running = executable.map(|found| Running { started_milliseconds: 1, executable: Some(found) });
        Evidence { process, cgroup_path: Some(path.into()), place: Place::of(path), running }
    }

    fn executable(path: &str, is_hosts: bool) -> Executable {
        Executable::for_tests(path, is_hosts)
    }

    #[test]
    fn each_thing_that_is_asked_for_must_hold() {
        let agent = evidence(1000, "/system.slice/agent.service", Some(executable("/usr/bin/agent", true)));
        let all = ProcessRule {
            uid: Some(1000),
            unit: Some(Unit::parse("agent.service").unwrap()),
            executable: Some("/usr/bin/agent".into()),
            sha256: Some([1; 32]),
            container: None,
        };
        assert_eq!(all.check(&Client::Process(agent.clone()), Some(&[1; 32])), Ok(()));
        let differs = |evidence: &Evidence, digest: Option<&FileDigest>| match all
            .check(&Client::Process(evidence.clone()), digest)
        {
            Err(WrongProcess::Differs(field)) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(differs(&agent, Some(&[2; 32])), "sha256");
        assert_eq!(differs(&agent, None), "sha256");
        let other_user =
            Evidence { process: LocalProcess { uid: 0, ..agent.process.clone() }, ..agent.clone() };
        assert_eq!(differs(&other_user, Some(&[1; 32])), "uid");
        for (path, runs, field) in [
            ("/system.slice/other.service", Some(executable("/usr/bin/agent", true)), "unit"),
            (
                "/user.slice/user-7.slice/user@7.service/agent.service",
                Some(executable("/usr/bin/agent", true)),
                "unit",
            ),
            ("/system.slice/agent.service", Some(executable("/usr/bin/other", true)), "executable"),
            (
                "/system.slice/agent.service",
                Some(executable("/usr/bin/agent (deleted)", false)),
                "executable",
            ),
            ("/system.slice/agent.service", Some(executable("/usr/bin/agent", false)), "executable"),
            ("/system.slice/agent.service", None, "executable"),
        ] {
            assert_eq!(differs(&evidence(1000, path, runs), Some(&[1; 32])), field, "{path}");
        }
    }

    #[test]
    fn inside_a_container_that_is_asked_for_a_path_is_the_containers() {
        let path = format!("/system.slice/docker-{ID}.scope");
        let inside = Client::Process(evidence(0, &path, Some(executable("/app/agent", false))));
        let container = Some(Container::parse(&ID[..12]).unwrap());
        let rule = ProcessRule { container, executable: Some("/app/agent".into()), ..ProcessRule::default() };
        assert_eq!(rule.check(&inside, None), Ok(()));
        let anywhere = ProcessRule { container: None, ..rule };
        assert_eq!(anywhere.check(&inside, None), Err(WrongProcess::Differs("executable")));
    }

    #[test]
    fn who_is_not_a_known_process_is_never_the_one() {
        let rule = ProcessRule { uid: Some(0), ..ProcessRule::default() };
        let root = evidence(0, "/", Some(executable("/usr/bin/docker-proxy", true)));
        assert_eq!(rule.check(&Client::Process(root.clone()), None), Ok(()));
        assert_eq!(
            rule.check(&Client::Process(root.clone()).as_neighbour(), None),
            Err(WrongProcess::Neighbour)
        );
        let relay = Client::Relay { name: "docker-proxy", evidence: root };
        assert_eq!(rule.check(&relay, None), Err(WrongProcess::Relay("docker-proxy")));
        assert_eq!(rule.check(&Client::UnknownLocal, None), Err(WrongProcess::Unknown));
        assert_eq!(rule.check(&Client::Remote, None), Err(WrongProcess::Remote));
    }

    proptest! {
        #[test]
        fn asking_for_more_never_lets_more_in(uid: bool, unit: bool, path: bool, sha: bool, runs: bool, known: bool, more in 0..4) {
            let found = evidence(u32::from(uid), if unit { "/a.service" } else { "/b.service" },
                runs.then(|| executable(if path { "/a" } else { "/b" }, true)));
            let digest = known.then_some([u8::from(sha); 32]);
            let fewer = ProcessRule { uid: Some(1), ..ProcessRule::default() };
            let mut stricter = fewer.clone();
            match more {
                0 => stricter.unit = Some(Unit::parse("a.service").unwrap()),
                1 => stricter.executable = Some("/a".into()),
                2 => stricter.sha256 = Some([1; 32]),
                _ => stricter.container = Some(Container::parse(ID).unwrap()),
            }
            let client = Client::Process(found);
            if stricter.check(&client, digest.as_ref()).is_ok() {
                prop_assert_eq!(fewer.check(&client, digest.as_ref()), Ok(()));
            }
        }
    }
}
