//! The entry of `guard.yaml` for a listener.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;

use serde::Serialize;

use crate::config::{ContainerId, Place, UnitName};
use crate::kernel::survey::Listener;

/// Words of a command line that say nothing of what is served.
const NO_NAMES: [&str; 4] = ["mcp", "mcp-server", "mcp_server", "mcpserver"];
/// Longest suggested name.
const NAME_BYTES_MAX: usize = 40;
/// Digits of a container's id, as engines print it.
const CONTAINER_DIGITS: usize = 12;

/// One item of `servers:`. `Display` is its YAML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub name: String,
    pub port: u16,
    #[serde(rename = "in", skip_serializing_if = "is_host")]
    pub place: Place,
}

/// Names of entries, each given once.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
}

impl Names {
    fn give(&mut self, wish: &str) -> String {
        let mut name = wish.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wish}-{number}");
            number += 1;
        }
        name
    }
}

impl Entry {
    pub(super) fn of(listener: &Listener, names: &mut Names) -> Self {
        Self { name: names.give(&wish(listener)), port: listener.address.port(), place: place(listener) }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "- {{name: {}, port: {}", self.name, self.port)?;
        match &self.place {
            Place::Host => {}
            Place::Container(id) => write!(f, ", in: {{container: {:?}}}", String::from(id.clone()))?,
            Place::Unit(unit) => write!(f, ", in: {{unit: {:?}}}", unit.as_str())?,
            Place::Netns(path) => write!(f, ", in: {{netns: {:?}}}", path.display().to_string())?,
            Place::Pid(pid) => write!(f, ", in: {{pid: {pid}}}")?,
        }
        f.write_str("}")
    }
}

fn is_host(place: &Place) -> bool {
    *place == Place::Host
}

/// Where a listener is, as `guard.yaml` names it. Container and unit outlive their processes, a named namespace too; a pid
/// is for now.
fn place(listener: &Listener) -> Place {
    if listener.space.is_own {
        return Place::Host;
    }
    let holder = listener.holder.as_ref();
    let container = holder.and_then(|holder| last(holder.container.as_deref()?).get(..CONTAINER_DIGITS));
    if let Some(id) = container.and_then(|id| ContainerId::parse(id).ok()) {
        return Place::Container(id);
    }
    if listener.space.is_named {
        return Place::Netns(listener.space.path.clone());
    }
    let unit = holder.and_then(|holder| UnitName::parse(last(holder.unit.as_deref()?)).ok());
    match (unit, holder.and_then(|holder| NonZeroU32::new(holder.pid))) {
        (Some(unit), _) => Place::Unit(unit),
        (None, Some(pid)) => Place::Pid(pid),
        (None, None) => Place::Netns(listener.space.path.clone()),
    }
}

/// `user@1000.service/agent.service` is `agent.service` to who looks for its cgroup.
fn last(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// The most telling word: of the command line, else the unit's name, else the process's.
fn wish(listener: &Listener) -> String {
    let fallback = format!("port-{}", listener.address.port());
    let Some(holder) = &listener.holder else { return fallback };
    let words = holder.command.iter().filter(|word| !word.starts_with('-')).flat_map(|word| word.rsplit('/'));
    let mut telling =
        words.map(plain).filter(|word| word.contains("mcp") && !NO_NAMES.contains(&word.as_str()));
    let official = || {
        let word = holder.command.iter().find_map(|word| word.split_once("@modelcontextprotocol/"))?.1;
        Some(plain(word.split('/').next()?))
    };
    let unit = || Some(plain(last(holder.unit.as_deref()?)));
    let name = official().or_else(|| telling.next()).or_else(unit).unwrap_or_else(|| plain(&holder.comm));
    if name.is_empty() { fallback } else { name }
}

/// In letters that a name may have, without version and ending.
fn plain(word: &str) -> String {
    let word = word.split_once('@').map_or(word, |(name, _)| name);
    let word = word.rsplit_once('.').map_or(word, |(stem, _)| stem);
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    let text: String = word.chars().map(letter).take(NAME_BYTES_MAX).collect();
    text.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Overrides};
    use crate::kernel::survey::{Holder, Space};

    const ID: &str = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef";

    fn listener(command: &[&str], unit: Option<&str>, container: Option<&str>, space: Space) -> Listener {
        Listener {
            address: ([127, 0, 0, 1], 8000).into(),
            space,
            uid: 0,
            holder: Some(Holder {
                pid: 77,
                comm: "node".into(),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                cgroup: "/".into(),
                unit: unit.map(str::to_owned),
                container: container.map(str::to_owned),
            }),
            server: None,
        }
    }

    fn space(path: &str, is_own: bool, is_named: bool) -> Space {
        Space { path: path.into(), is_own, is_named }
    }

    fn load(entry: &Entry) -> Config {
        let text = format!("servers:\n  {entry}\n");
        Overrides::default()
            .load_text("/etc/guard.yaml".as_ref(), &text)
            .unwrap_or_else(|error| panic!("{text}{error}"))
    }

    #[test]
    fn an_entry_can_be_pasted_and_names_what_lives_longest() {
        let own = || space("/proc/self/ns/net", true, true);
        let of_process = || space("/proc/77/ns/net", false, false);
        for (listener, yaml) in [
            (
                listener(&["npx", "-y", "@modelcontextprotocol/server-git@1.2"], None, None, own()),
                "- {name: server-git, port: 8000}",
            ),
            (
                listener(&["uvx", "mcp-server-time"], None, None, own()),
                "- {name: mcp-server-time, port: 8000}",
            ),
            (
                listener(&["node", "/srv/crm-mcp/dist/mcp.js"], None, None, own()),
                "- {name: crm-mcp, port: 8000}",
            ),
            (
                listener(&["node", "mcp.js"], Some("user@7.service/crm.service"), None, of_process()),
                r#"- {name: crm, port: 8000, in: {unit: "crm.service"}}"#,
            ),
            (
                listener(&["node", "mcp.js"], None, Some(ID), of_process()),
                r#"- {name: node, port: 8000, in: {container: "1f2e3d4c5b6a"}}"#,
            ),
            (
                listener(&["node"], None, None, space("/run/netns/blue", false, true)),
                r#"- {name: node, port: 8000, in: {netns: "/run/netns/blue"}}"#,
            ),
            (listener(&["node"], None, None, of_process()), "- {name: node, port: 8000, in: {pid: 77}}"),
        ] {
            let entry = Entry::of(&listener, &mut Names::default());
            assert_eq!(entry.to_string(), yaml);
            let config = load(&entry);
            assert_eq!((config.servers[0].port.get(), &config.servers[0].place), (8000, &entry.place));
        }
    }

    #[test]
    fn two_of_one_name_get_two_names() {
        let own = listener(&["uvx", "mcp-server-time"], None, None, space("/proc/self/ns/net", true, true));
        let mut names = Names::default();
        let given: Vec<String> = (0..3).map(|_| Entry::of(&own, &mut names).name).collect();
        assert_eq!(given, ["mcp-server-time", "mcp-server-time-2", "mcp-server-time-3"]);
    }

    proptest! {
        #[test]
        fn whatever_a_process_calls_itself_its_entry_is_one_item(words in proptest::collection::vec("\\PC{0,30}", 0..4), unit in proptest::option::of("\\PC{0,30}")) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let found = listener(&words, unit.as_deref(), None, space("/proc/77/ns/net", false, false));
            let entry = Entry::of(&found, &mut Names::default());
            prop_assert_eq!(load(&entry).servers.len(), 1);
        }
    }
}
