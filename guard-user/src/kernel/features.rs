//! What this kernel offers to the programs beyond what they cannot do without, found out by trying it. Where it offers less,
//! the guard starts with less and says so; where `guard.yaml` asks for what cannot be had, it does not start.

use anyhow::bail;
use aya::EbpfLoader;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};

use crate::config::{Config, OtherPorts};

/// Where the programs read what this kernel offers.
const KNOWS_CALLER: &str = "KNOWS_CALLER";
const YES: u32 = 1;
const NO: u32 = 0;

/// What the programs may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    /// A `sock_ops` program may ask for the cgroup of who calls `listen` (Linux 6.4).
    pub knows_caller: bool,
}

impl Features {
    pub(super) fn find() -> Self {
        // What cannot be found out counts as there: then the verifier has the last word, with its reason.
        let knows_caller =
            is_helper_supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id);
        Self { knows_caller: knows_caller.unwrap_or(true) }
    }

    /// Tells the programs, before they are loaded.
    pub(super) fn write(self, loader: &mut EbpfLoader<'_>) {
        let knows = if self.knows_caller { &YES } else { &NO };
        loader.override_global(KNOWS_CALLER, knows, true);
    }

    /// Fails if `guard.yaml` asks for what this kernel cannot do.
    pub(super) fn suffice(self, config: &Config) -> anyhow::Result<()> {
        if self.knows_caller {
            return Ok(());
        }
        let closes = |other: OtherPorts| matches!(other, OtherPorts::Protect | OtherPorts::Deny);
        let wish = if !config.kernel.watch.is_empty() {
            "`kernel.watch`".to_owned()
        } else if let Some(server) = config.servers.iter().find(|server| closes(server.other_ports)) {
            format!("`other_ports` of server {}", server.name)
        } else {
            return Ok(());
        };
        bail!(
            "{wish} cannot be had on this kernel: it does not tell a program which cgroup calls `listen`, so a new listener would be \
             open for a moment. Use Linux 6.4 or later, or leave it out; nothing was changed"
        )
    }

    /// What is done with less than elsewhere, in words.
    pub(super) fn reduced(self) -> Vec<String> {
        let caller = "this kernel does not tell a program which cgroup calls `listen` (Linux 6.4 does): other ports of servers are \
                      found up to half a second later, and `kernel.watch` and `other_ports: protect` or `deny` cannot be had";
        (!self.knows_caller).then(|| caller.to_owned()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        crate::config::Overrides::default().load_text("/etc/guard.yaml".as_ref(), text).unwrap()
    }

    #[test]
    fn what_a_kernel_cannot_do_is_refused_if_it_is_asked_for_and_told_if_not() {
        let (less, all) = (Features { knows_caller: false }, Features { knows_caller: true });
        let plain = config("{servers: [{name: a, port: 1}]}");
        assert!(less.suffice(&plain).is_ok() && less.reduced().len() == 1 && all.reduced().is_empty());
        for (text, named) in [
            ("{servers: [{name: a, port: 1}], kernel: {watch: [x.slice]}}", "`kernel.watch`"),
            ("{servers: [{name: a, port: 1, other_ports: deny}]}", "`other_ports` of server a"),
            ("{servers: [{name: a, port: 1, other_ports: protect}]}", "`other_ports` of server a"),
        ] {
            let asked = config(text);
            let words = less.suffice(&asked).unwrap_err().to_string();
            assert!(words.starts_with(named) && words.contains("Linux 6.4"), "{words}");
            assert!(all.suffice(&asked).is_ok());
        }
    }
}
