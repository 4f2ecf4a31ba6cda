//! A kernel of Debian's, taken out of its package without installing it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::command::Tool;
use crate::machine;

/// A kernel with its modules.
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) kernel: PathBuf,
    /// The directory that has `lib/modules`.
    pub(super) root: PathBuf,
}

/// Where kernels and machines are kept.
pub(super) fn home() -> PathBuf {
    machine::target_dir().join("guest")
}

impl Image {
    /// The newest kernel of this version for virtual machines; from the last time, if there is one.
    pub(crate) fn fetch(version: &str) -> anyhow::Result<Self> {
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            bail!("{version:?} is no version of Linux; write it as 6.1");
        }
        fs::create_dir_all(home()).with_context(|| format!("making {}", home().display()))?;
        if let Some(here) =
            newest(version, fs::read_dir(home())?.flatten().filter_map(|entry| name_of(&entry)))
        {
            return Self::of(&here);
        }
        if !machine::is_debian() {
            bail!(
                "kernels are taken from Debian's packages, and this is no Debian.\n  Run it in a container or machine with Debian."
            );
        }
        let list = || {
            Tool::new("apt-cache")
                .args(["search", "--names-only", "^linux-image-[0-9].*-cloud-amd64$"])
                .read()
        };
        let newest_of = |list: &str| {
            newest(version, list.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())))
        };
        let part = home().join("part");
        drop(fs::remove_dir_all(&part));
        fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
        let download = |name: &str| {
            println!("   apt-get download {name}: some 30 MiB");
            Tool::new("apt-get")
                .args(["-qq", "-o", "APT::Sandbox::User=root", "download", name])
                .dir(&part)
                .advice("Is the network reachable? `apt-get update` may help.")
        };
        // Lists of an older day name packages that are no more.
        let mut name = newest_of(&list()?);
        let first = name.as_deref().map(|name| download(name).run());
        if !matches!(first, Some(Ok(()))) {
            if let Some(Err(error)) = first {
                println!("   {error:#}");
            }
            Tool::new("apt-get").args(["-qq", "update"]).advice("It needs root and the network.").run()?;
            name = newest_of(&list()?);
            name.as_deref().map_or(Ok(()), |name| download(name).run())?;
        }
        let Some(name) = name else {
            bail!(
                "Debian's packages here have no Linux {version} for virtual machines.\n  `apt-cache search linux-image-cloud` shows which there are"
            );
        };
        let package = only(&part, "deb")?;
        Tool::new("dpkg").arg_path("-x", &package).args([part.as_os_str()]).run()?;
        fs::remove_file(&package).with_context(|| format!("removing {}", package.display()))?;
        fs::rename(&part, home().join(&name)).with_context(|| format!("naming {name}"))?;
        Self::of(&name)
    }

    fn of(name: &str) -> anyhow::Result<Self> {
        let root = home().join(name);
        let boot = root.join("boot");
        let kernel = fs::read_dir(&boot)
            .with_context(|| format!("reading {}", boot.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
            .with_context(|| {
                format!("{} has no kernel; remove {} and try again", boot.display(), root.display())
            })?;
        Ok(Self { name: name.to_owned(), kernel, root })
    }
}

fn name_of(entry: &fs::DirEntry) -> Option<String> {
    entry.file_name().into_string().ok()
}

/// Of packages such as `linux-image-6.1.0-56-cloud-amd64`, the newest one of this version.
fn newest(version: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let is_of = |name: &String| {
        let rest = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(version));
        rest.is_some_and(|rest| rest.starts_with('.')) && name.ends_with("-cloud-amd64")
    };
    names.filter(is_of).max_by_key(|name| numbers(name))
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|one: char| !one.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn only(dir: &Path, ending: &str) -> anyhow::Result<PathBuf> {
    let mut found = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    found
        .find(|path| path.extension().is_some_and(|known| known == ending))
        .with_context(|| format!("no .{ending} file came into {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_a_version_is_found_by_its_numbers() {
        let names = || {
            ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.9+deb12-cloud-amd64", "6.1.0-99-amd64"]
                .map(|name| format!("linux-image-{name}"))
                .into_iter()
        };
        assert_eq!(newest("6.1", names()).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12", names()).as_deref(), Some("linux-image-6.12.9+deb12-cloud-amd64"));
        assert_eq!(newest("6", names()).as_deref(), Some("linux-image-6.12.9+deb12-cloud-amd64"));
        assert_eq!(newest("6.2", names()), None);
    }
}
