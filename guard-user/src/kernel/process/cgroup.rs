//! The path of a cgroup, from the id that the kernel programs record.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::kernel::sys;

/// The cgroup2 tree, as it is mounted here.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    tree: File,
}

impl Cgroups {
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        let tree = File::open(root).with_context(|| format!("cannot open {}", root.display()))?;
        Ok(Self { root: root.to_owned(), tree })
    }

    /// The path below the root, such as `/system.slice/agent.service`; `/` is the root. `None`: it is gone, or its name
    /// is no text. An id is never given to another cgroup, and none is ever renamed.
    ///
    /// `claimed` is what `/proc/<pid>/cgroup` says. It is used where the kernel opens no file by its id (without
    /// `CAP_DAC_READ_SEARCH`), and only if the cgroup there has this id.
    pub(super) fn path(&self, id: u64, claimed: impl FnOnce() -> Option<String>) -> Option<String> {
        match sys::open_cgroup(&self.tree, id) {
            Ok(cgroup) => self.below_root(&sys::path_of(&cgroup).ok()?),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                claimed().filter(|path| self.id(path).is_some_and(|found| found == id))
            }
            Err(_gone) => None,
        }
    }

    /// The id of the cgroup at a path below the root.
    fn id(&self, path: &str) -> Option<u64> {
        Some(fs::metadata(self.root.join(path.trim_start_matches('/'))).ok()?.ino())
    }

    fn below_root(&self, path: &Path) -> Option<String> {
        Some(format!("/{}", path.strip_prefix(&self.root).ok()?.to_str()?))
    }
}

/// The cgroup2 line of `/proc/<pid>/cgroup`.
pub(super) fn claimed(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::host::cgroup2_root;

    #[test]
    fn an_id_leads_to_its_path_also_by_what_the_process_claims_and_a_false_claim_to_none() {
        let root = cgroup2_root().unwrap();
        let cgroups = Cgroups::open(&root).unwrap();
        let of = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(cgroups.id("/"), Some(of(&root)));
        let Ok(cgroup) = tempfile::Builder::new().prefix("mg-unit-").suffix(".service").tempdir_in(&root)
        else {
            return; // Only root makes cgroups; the privileged tests do.
        };
        let name = format!("/{}", cgroup.path().file_name().unwrap().to_str().unwrap());
        let id = of(cgroup.path());
        assert_eq!(cgroups.path(id, || None).as_deref(), Some(name.as_str()));
        assert_eq!(cgroups.path(of(&root), || None).as_deref(), Some("/"));
        assert_eq!(cgroups.id(&name), Some(id));
        fs::remove_dir(cgroup.keep()).unwrap();
        assert_eq!(cgroups.path(id, || Some(name)), None);
    }

    #[test]
    fn the_cgroup2_line_is_read_on_hybrid_hosts_too() {
        assert_eq!(claimed("9:name=systemd:/x\n0::/a b\n").as_deref(), Some("/a b"));
        assert_eq!(claimed("1:cpu:/"), None);
    }
}
