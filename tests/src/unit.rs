//! The sandbox of a systemd unit, as far as it can be had without systemd.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::libc::{self, sock_filter, sock_fprog};

/// Where the numbers of system calls are.
const CALLS: &str = include_str!("../golden/system-calls.txt");

/// The settings of a unit in `packaging`, the last one of each name.
#[derive(Debug)]
pub struct Unit(BTreeMap<String, String>);

impl Unit {
    /// That of the guard.
    pub fn read() -> anyhow::Result<Self> {
        Self::of("mcp-guard.service")
    }

    pub fn of(name: &str) -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let settings =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        Ok(Self(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    pub fn get(&self, name: &str) -> anyhow::Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("the unit has no {name}"))
    }

    /// The command with the unit's system calls, families of sockets, capabilities and no new privileges, in a mount namespace in
    /// which nothing but `writable` and what the unit names can be written.
    pub fn confine(&self, command: &Command, writable: &Path) -> anyhow::Result<Command> {
        let capabilities: Vec<String> = self
            .get("CapabilityBoundingSet")?
            .split_whitespace()
            .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        anyhow::ensure!(self.get("NoNewPrivileges")? == "yes" && self.get("ProtectSystem")? == "strict");
        let script = format!(
            "mount --bind {0} {0} && mount -o remount,bind,ro / && \
             exec setpriv --no-new-privs --bounding-set=-all{1} --inh-caps=-all \"$@\"",
            writable.display(),
            capabilities.concat()
        );
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let mut filter = self.filter()?;
        // SAFETY: between fork and exec, the closure makes one prctl call with a program that it owns.
        unsafe {
            shell.pre_exec(move || {
                let length = u16::try_from(filter.len()).unwrap_or(u16::MAX);
                let program = sock_fprog { len: length, filter: filter.as_mut_ptr() };
                let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
                if libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(shell)
    }

    /// The unit's filter of system calls as a classic BPF program: EPERM for all others.
    fn filter(&self) -> anyhow::Result<Vec<sock_filter>> {
        let table = |part: &str| -> BTreeMap<String, u32> {
            let lines = part.lines().filter_map(|line| line.split_once(' '));
            lines.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
        };
        let (single, service) =
            CALLS.split_once("@system-service\n").context("no group in the golden file")?;
        let (single, service) = (table(single), table(service));
        // What makes the mount namespace around the program needs this one. Without CAP_SYS_ADMIN it does nothing for the program itself.
        let mut allowed = vec![*single.get("mount").context("no number of mount")?];
        for name in self.get("SystemCallFilter")?.split(' ') {
            match name {
                "@system-service" => allowed.extend(service.values().copied()),
                name => allowed.push(*single.get(name).with_context(|| format!("no number of {name}"))?),
            }
        }
        let families = self
            .get("RestrictAddressFamilies")?
            .split(' ')
            .map(family)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (load, equal, give) = (0x20, 0x15, 0x06);
        let (allow, refuse) = (0x7fff_0000, 0x0005_0000 | u32::try_from(libc::EPERM)?);
        let no_family = 0x0005_0000 | u32::try_from(libc::EAFNOSUPPORT)?;
        let step = |code, k| sock_filter { code, jt: 0, jf: 0, k };
        let skip_unless = |k, jf| sock_filter { code: equal, jt: 0, jf, k };
        // The number of the call, then for `socket` its first argument.
        let mut program = vec![step(load, 0)];
        let number = u32::try_from(libc::SYS_socket)?;
        program.push(skip_unless(number, u8::try_from(2 + 2 * families.len())?));
        program.push(step(load, 16));
        for family in families {
            program.extend([skip_unless(family, 1), step(give, allow)]);
        }
        program.push(step(give, no_family));
        for call in allowed {
            program.extend([skip_unless(call, 1), step(give, allow)]);
        }
        program.push(step(give, refuse));
        Ok(program)
    }
}

fn family(name: &str) -> anyhow::Result<u32> {
    let number = match name {
        "AF_UNIX" => libc::AF_UNIX,
        "AF_INET" => libc::AF_INET,
        "AF_INET6" => libc::AF_INET6,
        "AF_NETLINK" => libc::AF_NETLINK,
        other => anyhow::bail!("no number of {other}"),
    };
    Ok(u32::try_from(number)?)
}
