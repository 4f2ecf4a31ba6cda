//! What a process and its children have used, from `/proc`.

use std::fs;

use anyhow::Context;

/// Of a proxy, over all of its threads and workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// User and system time since each process began, in seconds; the kernel counts in 1/100.
    pub(crate) cpu_seconds: f64,
    /// Resident memory now and at its highest. Pages that workers share count for each.
    pub(crate) rss_mib: f64,
    pub(crate) rss_peak_mib: f64,
}

impl Usage {
    pub(crate) fn of_tree(pid: u32) -> anyhow::Result<Self> {
        let mut whole = Self::of(pid)?;
        for child in children(pid)? {
            let part = Self::of(child)?;
            whole.cpu_seconds += part.cpu_seconds;
            whole.rss_mib += part.rss_mib;
            whole.rss_peak_mib += part.rss_peak_mib;
        }
        Ok(whole)
    }

    fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}"))
                .with_context(|| format!("process {pid} is gone"))
        };
        let status = read("status")?;
        let mib = |field: &str| kib(&status, field).map(|kib| kib / 1024.0);
        Ok(Self {
            cpu_seconds: cpu_ticks(&read("stat")?).context("unreadable stat")? / ticks_per_second()?,
            rss_mib: mib("VmRSS:").context("no VmRSS")?,
            rss_peak_mib: mib("VmHWM:").context("no VmHWM")?,
        })
    }
}

fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let list = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        all.extend(list.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(all)
}

/// `utime` + `stime`. The name before them may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_name, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn kib(status: &str, field: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?.parse().ok()
}

fn ticks_per_second() -> anyhow::Result<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(f64::from(i32::try_from(ticks)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_an_odd_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 3 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(300.0));
    }

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let before = Usage::of_tree(std::process::id()).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let now = Usage::of_tree(std::process::id()).unwrap();
            if now.cpu_seconds > before.cpu_seconds {
                assert!(now.rss_mib > 0.0 && now.rss_peak_mib > 0.0);
                return;
            }
            assert!(std::time::Instant::now() < end);
        }
    }
}
