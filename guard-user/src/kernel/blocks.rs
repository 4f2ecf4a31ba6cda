//! The kill switch as the running guard sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use guard_common::{BLOCK_AGENT, BLOCK_ALL, BLOCK_CGROUP, BLOCK_SERVER, Block};
use tokio::sync::watch;

use super::block::{self, BPF_EXIST, BlockStatus};
use super::gates;
use super::maps::{Maps, gone, lock};
use super::process::Client;
use super::rules::block_key;
use crate::types::{AgentName, ServerName};

/// Every block by its key.
pub type All = BTreeMap<Block, BlockStatus>;

/// What is blocked. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Blocks {
    known: Arc<watch::Sender<Arc<All>>>,
    cgroup_root: Arc<Path>,
}

/// Whom a block may be about: an agent, and the process through which it calls.
#[derive(Debug, Clone)]
pub struct Suspect {
    agent: Block,
    cgroup: Cgroup,
}

/// The cgroup of a client.
#[derive(Debug, Clone)]
enum Cgroup {
    /// On this host, with this directory.
    At(PathBuf),
    /// On this host, but it cannot be told which: it may be any.
    Unknown,
    Elsewhere,
}

impl Blocks {
    pub(super) fn new(cgroup_root: &Path) -> Self {
        Self { known: Arc::new(watch::Sender::new(Arc::default())), cgroup_root: cgroup_root.into() }
    }

    /// Reads what commands have written. A cgroup that was made anew at the same path is blocked like the one before.
    pub(super) fn refresh(&self, maps: &Maps) -> anyhow::Result<()> {
        let entries: Vec<_> = lock(&maps.blocks).iter().filter_map(Result::ok).collect();
        let mut now = All::new();
        for (key, mut value) in entries {
            let status = block::status(&key, &value);
            if key.kind == BLOCK_CGROUP
                && let Ok(id) = gates::id(Path::new(&status.name))
                && id != value.cgroup
            {
                let before = std::mem::replace(&mut value.cgroup, id);
                // A block that was taken back meanwhile stays so.
                if lock(&maps.blocks).insert(key, value, BPF_EXIST).is_err() {
                    continue;
                }
                lock(&maps.blocked_cgroups).insert(id, 1, 0).context("cannot block a cgroup that is new")?;
                gone(lock(&maps.blocked_cgroups).remove(&before))
                    .context("cannot forget a cgroup that is gone")?;
            }
            now.insert(key, status);
        }
        self.known.send_if_modified(|known| {
            let is_new = **known != now;
            if is_new {
                *known = Arc::new(now);
            }
            is_new
        });
        Ok(())
    }

    /// Every block that holds.
    pub fn list(&self) -> Vec<BlockStatus> {
        self.known.borrow().values().cloned().collect()
    }

    /// Whether connections to this server are refused.
    pub fn has_server(&self, server: &ServerName) -> bool {
        let known = self.known.borrow();
        known.contains_key(&block_key(BLOCK_ALL, ""))
            || known.contains_key(&block_key(BLOCK_SERVER, server.as_str()))
    }

    /// The programs refuse a blocked cgroup by its id. By its path it is known also when it was made anew a moment ago, and
    /// when it connected from another network namespace.
    pub fn suspect(&self, agent: &AgentName, client: &Client) -> Suspect {
        let cgroup = match client {
            Client::Process(evidence)
            | Client::Relay { evidence, .. }
            | Client::Neighbour { evidence, .. } => {
                let path = evidence.cgroup_path.as_deref();
                path.map_or(Cgroup::Unknown, |path| Cgroup::At(gates::directory(&self.cgroup_root, path)))
            }
            Client::UnknownLocal => Cgroup::Unknown,
            Client::Remote => Cgroup::Elsewhere,
        };
        Suspect { agent: block_key(BLOCK_AGENT, agent.as_str()), cgroup }
    }

    /// Whether a block holds `suspect` back.
    pub fn hold(&self, suspect: &Suspect) -> bool {
        suspect.is_among(&self.known.borrow())
    }

    /// Ends when one does.
    pub async fn until_held(&self, suspect: &Suspect) {
        let mut known = self.known.subscribe();
        // The sender lives in `self`, so waiting for a change cannot fail.
        let _blocked = known.wait_for(|known| suspect.is_among(known)).await;
    }

    /// Ends when anything else is blocked than at the last call on the same receiver.
    pub fn changes(&self) -> watch::Receiver<Arc<All>> {
        self.known.subscribe()
    }
}

impl Suspect {
    fn is_among(&self, blocks: &All) -> bool {
        blocks.contains_key(&self.agent)
            || blocks.iter().any(|(key, block)| key.kind == BLOCK_CGROUP && self.may_be_in(&block.name))
    }

    fn may_be_in(&self, dir: &str) -> bool {
        match &self.cgroup {
            Cgroup::At(own) => own.starts_with(dir),
            Cgroup::Unknown => true,
            Cgroup::Elsewhere => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::process::{Evidence, Place};
    use crate::types::LocalProcess;

    fn blocked(kind: u32, of: &'static str, name: &str) -> (Block, BlockStatus) {
        let status = BlockStatus { kind: of, name: name.into(), reason: String::new(), since: 0, uid: 0 };
        (block_key(kind, name), status)
    }

    fn in_cgroup(path: Option<&str>) -> Client {
        let comm = String::new();
        let process = LocalProcess { pid: 1, uid: 1, gid: 1, cgroup: 1, comm, cookie: 1, connected_at: 1 };
        let cgroup_path = path.map(str::to_owned);
        Client::Process(Evidence { process, cgroup_path, place: Place::default(), running: None })
    }

    #[tokio::test]
    async fn who_waits_for_an_agents_block_is_woken_by_it() {
        let blocks = Blocks::new("/cg".as_ref());
        let suspect = blocks.suspect(&AgentName::parse("a").unwrap(), &Client::Remote);
        assert!(!blocks.hold(&suspect));
        let waiting = tokio::spawn({
            let (blocks, suspect) = (blocks.clone(), suspect.clone());
            async move { blocks.until_held(&suspect).await }
        });
        blocks.known.send_replace(Arc::new(All::from([blocked(BLOCK_AGENT, "agent", "a")])));
        waiting.await.unwrap();
        assert!(blocks.hold(&suspect));
        assert_eq!(blocks.list().len(), 1);
    }

    #[test]
    fn a_blocked_cgroup_is_known_by_its_path_and_all_below_it() {
        let blocks = Blocks::new("/cg".as_ref());
        blocks.known.send_replace(Arc::new(All::from([blocked(BLOCK_CGROUP, "cgroup", "/cg/a.slice/b")])));
        let agent = AgentName::parse("a").unwrap();
        let is_held = |client: &Client| blocks.hold(&blocks.suspect(&agent, client));
        for path in ["/a.slice/b", "/a.slice/b/c/d"] {
            assert!(is_held(&in_cgroup(Some(path))), "{path}");
            assert!(is_held(&in_cgroup(Some(path)).as_neighbour()), "{path}");
        }
        for path in ["/a.slice", "/a.slice/bc", "/b", "/"] {
            assert!(!is_held(&in_cgroup(Some(path))), "{path}");
        }
        assert!(is_held(&in_cgroup(None)) && is_held(&Client::UnknownLocal), "it may be one of them");
        assert!(!is_held(&Client::Remote));
    }
}
