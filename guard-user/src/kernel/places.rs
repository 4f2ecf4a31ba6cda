//! Finds the network namespaces in which the configured servers are, now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::netns::NetnsId;
use crate::config::{Place, Server};

/// Cgroups that are looked at in one search; a host with more has a leak of its own.
const CGROUPS_MAX: usize = 65_536;

/// A namespace that has servers to protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A file that stands for the namespace while its processes live.
    pub path: PathBuf,
    pub servers: BTreeMap<u16, Arc<Server>>,
    /// Servers whose port another one has, by name.
    pub in_conflict: Vec<String>,
}

/// Each namespace with the servers that `guard.yaml` places there. Places that are not there yet are left out.
pub(super) fn find(servers: &[Arc<Server>], cgroup_root: &Path) -> BTreeMap<NetnsId, Wanted> {
    let mut found: BTreeMap<NetnsId, Wanted> = BTreeMap::new();
    for server in servers {
        for path in paths(&server.place, cgroup_root) {
            let Some(id) = NetnsId::of(&path) else { continue };
            let wanted = found.entry(id).or_insert_with(|| Wanted {
                path,
                servers: BTreeMap::new(),
                in_conflict: Vec::new(),
            });
            let holder = wanted.servers.entry(server.port.get()).or_insert_with(|| Arc::clone(server));
            if holder.name != server.name {
                wanted.in_conflict.push(server.name.to_string());
            }
        }
    }
    found
}

/// Files that stand for the namespaces of a place. Several may stand for one.
fn paths(place: &Place, cgroup_root: &Path) -> Vec<PathBuf> {
    match place {
        Place::Host => vec!["/proc/self/ns/net".into()],
        Place::Netns(path) => vec![path.clone()],
        Place::Pid(pid) => vec![of_pid(pid.get())],
        Place::Container(id) => of_pids(cgroup_root, &|name| id.is_of(name)),
        Place::Unit(unit) => of_pids(cgroup_root, &|name| name == unit.as_str()),
    }
}

fn of_pid(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn of_pids(cgroup_root: &Path, is_it: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut pids = Vec::new();
    let mut left = CGROUPS_MAX;
    walk(cgroup_root, false, is_it, &mut pids, &mut left);
    if pids.is_empty() && is_hybrid() {
        pids = pids_by_any_hierarchy(is_it);
    }
    pids.into_iter().map(of_pid).collect()
}

/// Collects the processes of the cgroups with a fitting name and of those below them.
fn walk(dir: &Path, inside: bool, is_it: &dyn Fn(&str) -> bool, pids: &mut Vec<u32>, left: &mut usize) {
    if *left == 0 {
        tracing::error!("more than {CGROUPS_MAX} cgroups: servers may not be found");
        return;
    }
    *left -= 1;
    if inside {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        pids.extend(procs.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inside = inside || entry.file_name().to_str().is_some_and(is_it);
            walk(&entry.path(), inside, is_it, pids, left);
        }
    }
}

/// On a hybrid host, engines may know their containers in the older hierarchies alone.
fn is_hybrid() -> bool {
    fs::read_to_string("/proc/self/cgroup")
        .is_ok_and(|table| table.lines().any(|line| !line.starts_with("0::")))
}

fn pids_by_any_hierarchy(is_it: &dyn Fn(&str) -> bool) -> Vec<u32> {
    let is_member = |pid: u32| {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        table
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .flat_map(|path| path.split('/'))
            .any(is_it)
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_member(*pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server(name: &str, port: u16, place: &serde_json::Value) -> Arc<Server> {
        Arc::new(serde_json::from_value(json!({"name": name, "port": port, "in": place})).unwrap())
    }

    #[test]
    fn servers_of_one_namespace_come_together_however_it_is_named() {
        let pid = std::process::id();
        let servers = [
            server("a", 1, &json!("host")),
            server("b", 2, &json!({"pid": pid})),
            server("c", 3, &json!({"netns": format!("/proc/{pid}/ns/net")})),
            server("d", 1, &json!({"pid": pid})),
            server("gone", 4, &json!({"netns": "/run/netns/no-such-namespace"})),
            server("none", 5, &json!({"netns": "/etc/hostname"})),
        ];
        let found = find(&servers, Path::new("/no/cgroups"));
        let wanted = &found[&NetnsId::own().unwrap()];
        assert_eq!(found.len(), 1);
        assert_eq!(wanted.servers.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(wanted.in_conflict, ["d"]);
    }

    #[test]
    fn processes_are_found_in_and_below_the_cgroup_with_the_name() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, pids: &str| {
            let dir = root.path().join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), pids).unwrap();
        };
        make("system.slice/crm.service", "11\n12\n");
        make("system.slice/crm.service/worker", "13\n");
        make("system.slice/crm2.service", "14\n");
        let (mut pids, mut left) = (Vec::new(), CGROUPS_MAX);
        walk(root.path(), false, &|name| name == "crm.service", &mut pids, &mut left);
        pids.sort_unstable();
        assert_eq!(pids, [11, 12, 13]);
    }
}
