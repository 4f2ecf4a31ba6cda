//! The kill switch as the running guard sees it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use guard_common::{BLOCK_AGENT, BLOCK_ALL, BLOCK_CGROUP, BLOCK_SERVER, Block};
use tokio::sync::watch;

use super::block::{self, BPF_EXIST, BlockStatus};
use super::gates;
use super::maps::{Maps, gone, lock};
use super::rules::block_key;
use crate::types::{AgentName, ServerName};

/// Every block by its key.
pub type All = BTreeMap<Block, BlockStatus>;

/// What is blocked. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub struct Blocks {
    known: Arc<watch::Sender<Arc<All>>>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { known: Arc::new(watch::Sender::new(Arc::default())) }
    }
}

impl Blocks {
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

    pub fn has_agent(&self, agent: &AgentName) -> bool {
        self.known.borrow().contains_key(&block_key(BLOCK_AGENT, agent.as_str()))
    }

    /// Ends when the agent is blocked.
    pub async fn agent_is_blocked(&self, agent: &AgentName) {
        let key = block_key(BLOCK_AGENT, agent.as_str());
        let mut known = self.known.subscribe();
        // The sender lives in `self`, so waiting for a change cannot fail.
        let _blocked = known.wait_for(|known| known.contains_key(&key)).await;
    }

    /// Ends when anything else is blocked than at the last call on the same receiver.
    pub fn changes(&self) -> watch::Receiver<Arc<All>> {
        self.known.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_an_agents_block_is_woken_by_it() {
        let blocks = Blocks::default();
        let agent = AgentName::parse("a").unwrap();
        assert!(!blocks.has_agent(&agent));
        let waiting = tokio::spawn({
            let (blocks, agent) = (blocks.clone(), agent.clone());
            async move { blocks.agent_is_blocked(&agent).await }
        });
        let status = BlockStatus { kind: "agent", name: "a".into(), reason: String::new(), since: 0, uid: 0 };
        blocks.known.send_replace(Arc::new(All::from([(block_key(BLOCK_AGENT, "a"), status)])));
        waiting.await.unwrap();
        assert!(blocks.has_agent(&agent));
        assert_eq!(blocks.list().len(), 1);
    }
}
