//! Finds the network namespaces in which the configured servers are, now.
//!
//! Containers and units are found by the names of their cgroups. Who may make a cgroup may name it as he likes, so a name counts
//! only where root alone can give one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diag;
use super::netns::{Netns, NetnsId};
use crate::config::{Place, Server};

/// Cgroups of root's that are looked at in one search; a host with more has a leak of its own.
const CGROUPS_MAX: usize = 65_536;
/// Cgroups that are looked at below one that was found.
const CGROUPS_BELOW_MAX: usize = 8192;
/// Processes of one place that are looked at.
const PROCESSES_MAX: usize = 65_536;
/// Threads of one place that are looked at, beside each process's first.
const THREADS_MAX: usize = 16_384;
/// Namespaces of a place with too many that are looked into, to find those in which somebody listens on the port.
const LOOKED_INTO_MAX: usize = 256;
/// Who gives names that count: root of the host.
const ROOT: u32 = 0;
/// Others may write.
const OTHERS_WRITE: u32 = 0o022;
/// What a unit with processes of its own ends with: the cgroups below it are its own, and no units.
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// A namespace that has servers to protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A file that stands for the namespace while its processes live.
    pub path: PathBuf,
    pub servers: BTreeMap<u16, Arc<Server>>,
    /// Servers whose port another one has, by name.
    pub in_conflict: Vec<String>,
}

/// Where the servers are.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub wanted: BTreeMap<NetnsId, Wanted>,
    /// Namespaces that are left out, since their server has too many.
    pub left_out: BTreeSet<NetnsId>,
    /// What is not found or left out: about what, and in words.
    pub problems: BTreeMap<String, String>,
}

/// How to search.
pub(super) struct Search<'a> {
    pub cgroup_root: &'a Path,
    /// Namespaces that one server may have.
    pub namespaces_max: usize,
    /// Namespaces that are protected already.
    pub known: &'a BTreeSet<NetnsId>,
    /// Namespaces in which somebody has just begun to listen.
    pub heard: &'a BTreeSet<NetnsId>,
}

/// The processes of a cgroup and of all below it.
#[derive(Debug, Default, Clone)]
pub(super) struct Members {
    pub pids: BTreeSet<u32>,
    /// The namespaces of their threads, each with a file that stands for it.
    pub namespaces: BTreeMap<NetnsId, PathBuf>,
    /// There are more than were looked at.
    pub is_cut: bool,
}

/// Each namespace with the servers that `guard.yaml` places there. Places that are not there yet are left out.
pub(super) fn find(servers: &[Arc<Server>], search: &Search<'_>) -> Found {
    let mut found = Found::default();
    // What people are shown of a place may fit two.
    let mut places: BTreeMap<String, Members> = BTreeMap::new();
    for server in servers {
        let members = places
            .entry(format!("{:?}", server.place))
            .or_insert_with(|| of_place(&server.place, search.cgroup_root));
        if members.is_cut {
            let words = "it has more cgroups, processes or threads than are looked at; a namespace of its servers may be open";
            found.problems.insert(server.place.to_string(), words.to_owned());
        }
        for (id, path) in chosen(server, members, search, &mut found) {
            let wanted = found.wanted.entry(id).or_insert_with(|| Wanted {
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
    let wanted = &found.wanted;
    found.left_out.retain(|id| !wanted.contains_key(id));
    found
}

/// The namespaces of a server's place that are protected for it: as many as it may have, and first those in which somebody
/// listens on its port.
fn chosen(
    server: &Server,
    members: &Members,
    search: &Search<'_>,
    found: &mut Found,
) -> Vec<(NetnsId, PathBuf)> {
    let all = || members.namespaces.iter().map(|(id, path)| (*id, path.clone()));
    if members.namespaces.len() <= search.namespaces_max {
        return all().collect();
    }
    let mut ranked: Vec<_> = all().collect();
    ranked.sort_by_key(|(id, _)| (!search.heard.contains(id), !search.known.contains(id)));
    let port = server.port.get();
    let listens = |path: &Path| {
        let listening = Netns::open(path).ok()?.run(diag::listening).ok()?.ok()?;
        Some(listening.iter().any(|socket| socket.local.port() == port))
    };
    let mut looked: Vec<_> = ranked
        .into_iter()
        .enumerate()
        // In doubt, somebody does.
        .map(|(n, (id, path))| (n < LOOKED_INTO_MAX && listens(&path) != Some(false), id, path))
        .collect();
    looked.sort_by_key(|(listens, id, _)| (!listens, !search.known.contains(id)));
    let rest = looked.split_off(search.namespaces_max);
    let open = rest.iter().filter(|(listens, ..)| *listens).count();
    let rest_words = if open == 0 {
        "in those that are left out nobody listens on its port".to_owned()
    } else {
        format!("in {open} of those that are left out somebody listens on its port, and is not closed")
    };
    let words = format!(
        "{} has {} network namespaces, more than the {} that one server may have (`limits.server_namespaces_max`): {rest_words}",
        server.place,
        members.namespaces.len(),
        search.namespaces_max
    );
    found.problems.insert(format!("server {}", server.name), words);
    found.left_out.extend(rest.into_iter().map(|(_, id, _)| id));
    looked.into_iter().map(|(_, id, path)| (id, path)).collect()
}

/// Whether a process is where its server's entry says: in the cgroup of the unit or container. `cgroup` is its cgroup2 path.
pub(super) fn is_in(place: &Place, cgroup_root: &Path, pid: u32, cgroup: &str) -> bool {
    let Some(name) = Name::of(place) else { return true };
    let mut dir = cgroup_root.to_owned();
    for part in cgroup.split('/').filter(|part| !part.is_empty()) {
        if part == ".." || !is_roots(&dir) {
            break;
        }
        if name.is(part) {
            return true;
        }
        if !name.may_be_below(part) {
            break;
        }
        dir.push(part);
    }
    is_hybrid() && name.is_member(pid)
}

/// What the cgroup of a place is called.
enum Name<'p> {
    Container(&'p crate::config::ContainerId),
    Unit(&'p str),
}

impl<'p> Name<'p> {
    fn of(place: &'p Place) -> Option<Self> {
        match place {
            Place::Host | Place::Netns(_) | Place::Pid(_) => None,
            Place::Container(id) => Some(Self::Container(id)),
            Place::Unit(unit) => Some(Self::Unit(unit.as_str())),
        }
    }

    fn is(&self, cgroup: &str) -> bool {
        match self {
            Self::Container(id) => id.is_of(cgroup),
            Self::Unit(unit) => *unit == cgroup,
        }
    }

    /// Containers may be below a service of their engine; units are in slices alone.
    fn may_be_below(&self, cgroup: &str) -> bool {
        matches!(self, Self::Container(_)) || !UNITS.iter().any(|kind| cgroup.ends_with(kind))
    }

    /// By any hierarchy with controllers, which users do not have to themselves.
    fn is_member(&self, pid: u32) -> bool {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        table
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .filter(|(controllers, _)| !controllers.is_empty() && !controllers.starts_with("name="))
            .flat_map(|(_, path)| path.split('/'))
            .any(|part| self.is(part))
    }
}

fn of_place(place: &Place, cgroup_root: &Path) -> Members {
    let alone = |path: PathBuf| Members {
        namespaces: NetnsId::of(&path).map(|id| (id, path)).into_iter().collect(),
        ..Members::default()
    };
    match place {
        Place::Host => alone("/proc/self/ns/net".into()),
        Place::Netns(path) => alone(path.clone()),
        Place::Pid(pid) => alone(of_pid(pid.get())),
        Place::Container(_) | Place::Unit(_) => {
            let Some(name) = Name::of(place) else { return Members::default() };
            let (dirs, is_cut) = named(cgroup_root, &name, ROOT);
            let mut members = Members { is_cut, ..Members::default() };
            for dir in dirs {
                members.add_cgroup(&dir);
            }
            if members.pids.is_empty() && is_hybrid() {
                // Engines may know their containers in the older hierarchies alone.
                members.pids.extend(processes().filter(|pid| name.is_member(*pid)));
            }
            members.add_namespaces();
            members
        }
    }
}

/// The processes of a cgroup and of all below it, with their namespaces.
pub(super) fn members(dir: &Path) -> Members {
    let mut members = Members::default();
    members.add_cgroup(dir);
    members.add_namespaces();
    members
}

/// The namespaces of the threads of these processes.
pub(super) fn namespaces_of(pids: impl IntoIterator<Item = u32>) -> BTreeSet<NetnsId> {
    let mut members = Members { pids: pids.into_iter().collect(), ..Members::default() };
    members.add_namespaces();
    members.namespaces.into_keys().collect()
}

impl Members {
    /// Breadth first: who makes many cgroups below his own does not hide his neighbours.
    fn add_cgroup(&mut self, dir: &Path) {
        let mut waiting = VecDeque::from([dir.to_owned()]);
        for _ in 0..CGROUPS_BELOW_MAX {
            let Some(dir) = waiting.pop_front() else { return };
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            self.pids.extend(procs.lines().filter_map(|pid| pid.parse::<u32>().ok()));
            waiting.extend(children(&dir));
        }
        self.is_cut |= !waiting.is_empty();
    }

    /// First the processes, then their other threads: each thread may have gone to a namespace of its own.
    fn add_namespaces(&mut self) {
        self.is_cut |= self.pids.len() > PROCESSES_MAX;
        for pid in self.pids.iter().take(PROCESSES_MAX) {
            let path = of_pid(*pid);
            if let Some(id) = NetnsId::of_thread(&path) {
                self.namespaces.entry(id).or_insert(path);
            }
        }
        let mut left = THREADS_MAX;
        for pid in self.pids.iter().take(PROCESSES_MAX) {
            let tasks = PathBuf::from(format!("/proc/{pid}/task"));
            // Itself, its parent, and one for each thread.
            if fs::metadata(&tasks).is_ok_and(|meta| meta.nlink() <= 3) {
                continue;
            }
            for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
                let Some(fewer) = left.checked_sub(1) else {
                    self.is_cut = true;
                    return;
                };
                left = fewer;
                let path = task.path().join("ns/net");
                if let Some(id) = NetnsId::of_thread(&path) {
                    self.namespaces.entry(id).or_insert(path);
                }
            }
        }
    }
}

/// The cgroups with that name, where only `owner` could have given it. True: there are more cgroups than were looked at.
fn named(root: &Path, name: &Name<'_>, owner: u32) -> (Vec<PathBuf>, bool) {
    let mut found = Vec::new();
    let mut waiting = VecDeque::from([root.to_owned()]);
    for _ in 0..CGROUPS_MAX {
        let Some(dir) = waiting.pop_front() else { return (found, false) };
        if !is_owned(&dir, owner) {
            continue;
        }
        for child in children(&dir) {
            let Some(part) = child.file_name().and_then(|part| part.to_str()) else { continue };
            if name.is(part) {
                found.push(child);
            } else if name.may_be_below(part) {
                waiting.push_back(child);
            }
        }
    }
    (found, !waiting.is_empty())
}

fn is_roots(dir: &Path) -> bool {
    is_owned(dir, ROOT)
}

/// Whether `owner` alone makes cgroups in this one.
fn is_owned(dir: &Path, owner: u32) -> bool {
    fs::metadata(dir).is_ok_and(|meta| meta.uid() == owner && meta.mode() & OTHERS_WRITE == 0)
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn of_pid(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn is_hybrid() -> bool {
    fs::read_to_string("/proc/self/cgroup")
        .is_ok_and(|table| table.lines().any(|line| !line.starts_with("0::")))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
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
        let nothing = BTreeSet::new();
        let search = Search {
            cgroup_root: Path::new("/no/cgroups"),
            namespaces_max: 1,
            known: &nothing,
            heard: &nothing,
        };
        let found = find(&servers, &search);
        let wanted = &found.wanted[&NetnsId::own().unwrap()];
        assert_eq!((found.wanted.len(), found.problems.len()), (1, 0));
        assert_eq!(wanted.servers.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(wanted.in_conflict, ["d"]);
    }

    /// Makes cgroups in a directory of this user's, who stands for root.
    fn tree(cgroups: &[(&str, &str)]) -> (tempfile::TempDir, u32) {
        let root = tempfile::tempdir().unwrap();
        for (path, pids) in cgroups {
            let dir = root.path().join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), pids).unwrap();
        }
        let owner = fs::metadata(root.path()).unwrap().uid();
        (root, owner)
    }

    fn pids(root: &Path, name: &Name<'_>, owner: u32) -> Vec<u32> {
        let mut members = Members::default();
        named(root, name, owner).0.iter().for_each(|dir| members.add_cgroup(dir));
        members.pids.into_iter().collect()
    }

    #[test]
    fn processes_are_found_in_and_below_the_cgroup_with_the_name() {
        let (root, owner) = tree(&[
            ("system.slice/crm.service", "11\n12\n"),
            ("system.slice/crm.service/worker", "13\n"),
            ("system.slice/crm2.service", "14\n"),
            ("system.slice/other.service/crm.service", "15\n"),
        ]);
        assert_eq!(pids(root.path(), &Name::Unit("crm.service"), owner), [11, 12, 13]);
        assert!(
            pids(root.path(), &Name::Unit("crm.service"), owner + 1).is_empty(),
            "nobody else's names count"
        );
    }

    #[test]
    fn a_name_in_a_cgroup_that_others_may_write_to_does_not_count() {
        use std::os::unix::fs::PermissionsExt;
        let (root, owner) =
            tree(&[("user.slice/deep/crm.service", "21\n"), ("system.slice/crm.service", "22\n")]);
        let deep = root.path().join("user.slice/deep");
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o775)).unwrap();
        assert_eq!(pids(root.path(), &Name::Unit("crm.service"), owner), [22]);
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(pids(root.path(), &Name::Unit("crm.service"), owner), [21, 22]);
    }

    #[test]
    fn a_cgroup_with_too_many_below_it_is_told_and_its_own_processes_are_found() {
        let (root, _) = tree(&[("a.slice", "31\n"), ("a.slice/z.service", "32\n")]);
        let below = root.path().join("a.slice/a.service");
        for n in 0..CGROUPS_BELOW_MAX {
            fs::create_dir_all(below.join(n.to_string())).unwrap();
        }
        let mut members = Members::default();
        members.add_cgroup(&root.path().join("a.slice"));
        assert!(members.is_cut);
        assert_eq!(members.pids, BTreeSet::from([31, 32]), "neighbours come before what is deeper");
    }

    #[test]
    fn the_threads_of_a_process_are_looked_at() {
        let pid = std::process::id();
        let (root, _) = tree(&[("a.service", &pid.to_string())]);
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_err());
        let members = members(&root.path().join("a.service"));
        assert_eq!(members.namespaces.keys().copied().collect::<Vec<_>>(), [NetnsId::own().unwrap()]);
        drop(tell);
        assert!(other.join().unwrap());
    }
}
