//! Programs that connect for others: behind them, the process is not the one that asks.
//!
//! A name is a hint for who reads the record, and a reason to take the process for nobody's evidence. It proves
//! nothing: what is not in the list may hand on connections as well.

/// File names of such programs in [`DIRECTORIES`]; `docs/policy.md` shows them.
const RELAYS: [&str; 20] = [
    "cloudflared",
    "conmon",
    "containerd",
    "containerd-shim-runc-v2",
    "crio",
    "docker-proxy",
    "gvproxy",
    "kube-proxy",
    "kubelet",
    "passt",
    "pasta",
    "rootlesskit",
    "rootlessport",
    "slirp4netns",
    "socat",
    "ssh",
    "sshd",
    "sshd-session",
    "systemd-socket-proxyd",
    "tailscaled",
];
/// Where programs are that the host's administrator put there. One of that name elsewhere is somebody's own.
const DIRECTORIES: [&str; 10] = [
    "/bin/",
    "/lib/",
    "/nix/store/",
    "/opt/",
    "/run/current-system/",
    "/sbin/",
    "/snap/",
    "/usr/",
    "/var/lib/rancher/",
    "/var/lib/snapd/",
];

/// The relay that an executable is, by its path.
pub(super) fn named(path: &str) -> Option<&'static str> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let (_, file) = path.rsplit_once('/')?;
    if !DIRECTORIES.iter().any(|directory| path.starts_with(directory)) {
        return None;
    }
    // passt is built for several processors: pasta.avx2.
    let file = file.strip_suffix(".avx2").unwrap_or(file);
    RELAYS.iter().find(|name| **name == file).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_known_where_distributions_put_them_and_nowhere_else() {
        for (path, relay) in [
            ("/usr/bin/docker-proxy", Some("docker-proxy")),
            ("/usr/libexec/docker/docker-proxy (deleted)", Some("docker-proxy")),
            ("/usr/libexec/podman/rootlessport", Some("rootlessport")),
            ("/usr/bin/pasta.avx2", Some("pasta")),
            ("/usr/lib/systemd/systemd-socket-proxyd", Some("systemd-socket-proxyd")),
            ("/usr/local/bin/kube-proxy", Some("kube-proxy")),
            ("/home/me/docker-proxy", None),
            ("/tmp/usr/bin/docker-proxy", None),
            ("/usr/bin/node", None),
            ("docker-proxy", None),
            ("", None),
        ] {
            assert_eq!(named(path), relay, "{path}");
        }
    }
}
