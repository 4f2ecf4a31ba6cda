//! Finds MCP servers that nobody protects: listeners whose command line says so or, if asked, that answer as one. Works on
//! a survey of the host; needs no running guard.

mod ask;
mod entry;
mod hint;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

pub use ask::PORTS_ASKED_MAX;
pub use entry::Entry;
pub use hint::Hint;

use crate::kernel::survey::{Listener, Survey};
use entry::Names;

/// A listener that looks like an MCP server and is not in `guard.yaml`.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    pub hint: Hint,
    #[serde(flatten)]
    pub listener: Listener,
    /// Ready for `servers:` in `guard.yaml`.
    pub entry: Entry,
}

/// What was found, and what was left out.
#[derive(Debug, Default, Serialize)]
pub struct Discovery {
    pub found: Vec<Found>,
    /// Ports that were not asked because [`PORTS_ASKED_MAX`] had been.
    pub not_asked: usize,
    /// Namespaces that could not be looked into, and why.
    pub unseen: Vec<String>,
}

/// What of `survey` looks like an MCP server and is not protected. With `probe`, what gives no hint is asked.
pub fn discover(survey: Survey, probe: bool) -> Discovery {
    let mut discovery = Discovery { unseen: survey.unseen, ..Discovery::default() };
    let mut asked = 0;
    let mut names = Names::default();
    for listener in one_per_port(survey.listeners) {
        if listener.server.is_some() || is_guards(&listener) {
            continue;
        }
        let command = listener.holder.as_ref().map_or(&[][..], |holder| &holder.command);
        let mut hint = hint::hint(command);
        if probe && hint.is_none() && ask::may_ask(listener.address.port()) {
            if asked < PORTS_ASKED_MAX {
                asked += 1;
                let target = ask::target(listener.address);
                hint = listener
                    .space
                    .run(|| ask::speaks_mcp(target))
                    .unwrap_or_default()
                    .then_some(Hint::Answered);
            } else {
                discovery.not_asked += 1;
            }
        }
        if let Some(hint) = hint {
            let entry = Entry::of(&listener, &mut names);
            discovery.found.push(Found { hint, listener, entry });
        }
    }
    discovery
}

/// A port on several addresses is one server.
fn one_per_port(listeners: Vec<Listener>) -> Vec<Listener> {
    let mut by_port: BTreeMap<(bool, PathBuf, u16), Listener> = BTreeMap::new();
    for listener in listeners {
        let key = (!listener.space.is_own, listener.space.path.clone(), listener.address.port());
        by_port.entry(key).or_insert(listener);
    }
    by_port.into_values().collect()
}

/// The guard's own listeners.
fn is_guards(listener: &Listener) -> bool {
    let command = listener.holder.as_ref().and_then(|holder| holder.command.first());
    command.is_some_and(|program| program.rsplit('/').next() == Some("mcp-guard"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::survey::{Holder, Space};

    fn listener(port: u16, command: &str, server: Option<&str>) -> Listener {
        Listener {
            address: ([127, 0, 0, 1], port).into(),
            space: Space { path: "/proc/self/ns/net".into(), is_own: true, is_named: true },
            uid: 1000,
            holder: Some(Holder {
                pid: 7,
                comm: "x".into(),
                command: command.split(' ').map(str::to_owned).collect(),
                cgroup: "/".into(),
                unit: None,
                container: None,
            }),
            server: server.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_configured_or_the_guards_own_or_no_mcp_server_is_left_out() {
        let listeners = vec![
            listener(1, "uvx mcp-server-git", None),
            listener(1, "uvx mcp-server-git", None),
            listener(2, "uvx mcp-server-git", Some("git")),
            listener(3, "/usr/bin/mcp-guard run", None),
            listener(4, "nginx", None),
            Listener { holder: None, ..listener(5, "", None) },
        ];
        let found = discover(Survey { listeners, unseen: vec!["x".into()] }, false);
        assert_eq!(found.found.iter().map(|found| found.listener.address.port()).collect::<Vec<_>>(), [1]);
        assert_eq!((found.not_asked, found.unseen.len()), (0, 1));
    }

    #[test]
    fn no_more_ports_are_asked_than_the_limit_and_the_rest_is_told() {
        // Nobody listens on these: each is refused at once.
        let ports = (1..).filter(|port| ask::may_ask(*port)).take(PORTS_ASKED_MAX + 3);
        let listeners = ports.map(|port| listener(port, "something", None)).collect();
        let found = discover(Survey { listeners, unseen: Vec::new() }, true);
        assert_eq!(found.not_asked, 3);
    }
}
