//! What the service manager is told, as `sd_notify(3)` describes it: datagrams of `KEY=value` lines.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::timeout;

/// File descriptors in one message; the kernel takes no more (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

/// How long a part of the start may take before it needs more than the manager's own limit.
const START_MAX: Duration = Duration::from_secs(30 * 60);
/// Between two requests for more time; well below the unit's limit.
const ASK_EVERY: Duration = Duration::from_secs(10);

const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
const WATCHDOG_VARIABLE: &str = "WATCHDOG_USEC";
const WATCHDOG_PID_VARIABLE: &str = "WATCHDOG_PID";

/// The service manager that started this process, if one did. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
}

/// One thing to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    Ready,
    /// A reload begins; `Ready` ends it. Carries the clock, which systemd 253 and later ask for.
    Reloading,
    Stopping,
    /// One line for `systemctl status`.
    Status(&'a str),
    /// The guard makes progress.
    Watchdog,
    /// The start takes at least so much longer.
    MoreTime(Duration),
}

impl Manager {
    /// What the environment names. A socket that cannot be reached is told in the log and then left alone.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        let socket = variable(SOCKET_VARIABLE).and_then(|address| {
            connect(&address)
                .inspect_err(
                    |error| tracing::warn!(?address, %error, "the service manager cannot be reached"),
                )
                .ok()
        });
        let watchdog = watchdog(
            variable(WATCHDOG_VARIABLE).as_ref(),
            variable(WATCHDOG_PID_VARIABLE).as_ref(),
            std::process::id(),
        );
        Self { socket: socket.map(Arc::new), watchdog }
    }

    /// How often a sign of life is due: half of the time after which the manager would give this process up. `None`:
    /// nobody waits for one.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog).map(|patience| patience / 2)
    }

    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Tells it. A manager that does not listen is no reason to stop guarding.
    pub fn tell(&self, words: &[Word<'_>]) {
        let Some(socket) = &self.socket else { return };
        let text: String = words.iter().map(Word::lines).collect();
        if let Err(error) = socket.send(text.as_bytes()) {
            tracing::warn!(%error, "the service manager was not told: {}", text.trim_end());
        }
    }

    /// Does a part of the start that may take long, such as reading a long trail, and asks for more time meanwhile: without,
    /// the manager would end the start after its limit, and the next one would be no faster. Asks for half an hour at most.
    pub async fn wait_for<T>(&self, part: impl Future<Output = T>) -> T {
        let mut part = pin!(part);
        let mut waited = Duration::ZERO;
        loop {
            match timeout(ASK_EVERY, &mut part).await {
                Ok(done) => return done,
                Err(_elapsed) => waited += ASK_EVERY,
            }
            if waited < START_MAX {
                self.tell(&[Word::MoreTime(ASK_EVERY * 3)]);
            }
        }
    }

    /// Gives it file descriptors to keep, under one name, over a restart of the service. The next start finds them with
    /// [`inherited`](super::inherited()). `Ok(false)`: there is no manager.
    pub fn store(&self, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        // The manager would ask `poll` whether the descriptor is dead, and drop it; a listener's errors do not kill it.
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"), fds)
    }

    /// Makes it forget all descriptors of that name.
    pub fn forget(&self, name: &str) -> io::Result<bool> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other(format!("more than {FDS_MAX} file descriptors at once")));
        }
        sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
        Ok(true)
    }
}

impl Word<'_> {
    fn lines(&self) -> String {
        match self {
            Self::Ready => "READY=1\n".into(),
            Self::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_micros()),
            Self::Stopping => "STOPPING=1\n".into(),
            Self::Status(text) => format!("STATUS={}\n", text.replace('\n', " ")),
            Self::Watchdog => "WATCHDOG=1\n".into(),
            Self::MoreTime(time) => format!("EXTEND_TIMEOUT_USEC={}\n", time.as_micros()),
        }
    }
}

fn monotonic_micros() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}

/// A path, or an abstract name that begins with '@'.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes() {
        [b'@', name @ ..] => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        _ => socket.connect(address)?,
    }
    Ok(socket)
}

/// The manager's patience, if it is meant for the process `own`.
fn watchdog(micros: Option<&OsString>, pid: Option<&OsString>, own: u32) -> Option<Duration> {
    let number = |text: &OsString| text.to_str()?.parse::<u64>().ok();
    if let Some(pid) = pid
        && number(pid) != Some(own.into())
    {
        return None;
    }
    micros.and_then(number).filter(|micros| *micros > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    fn manager_at(listener: &UnixDatagram) -> Manager {
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect_addr(&listener.local_addr().unwrap()).unwrap();
        Manager { socket: Some(Arc::new(socket)), watchdog: Some(Duration::from_secs(3)) }
    }

    fn listener(name: &str) -> UnixDatagram {
        let name = format!("mcp-guard-test-{}-{name}", std::process::id());
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
    }

    fn heard(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = listener.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_start_asks_for_more_time_until_it_is_done_and_not_for_ever() {
        let listener = listener("start");
        listener.set_nonblocking(true).unwrap();
        let count = || {
            let mut count = 0;
            let mut bytes = [0; 64];
            while let Ok(length) = listener.recv(&mut bytes) {
                assert_eq!(&bytes[..length], b"EXTEND_TIMEOUT_USEC=30000000\n");
                count += 1;
            }
            count
        };
        let manager = manager_at(&listener);
        assert_eq!((manager.wait_for(async { 7 }).await, count()), (7, 0));
        manager.wait_for(tokio::time::sleep(Duration::from_secs(35))).await;
        assert_eq!(count(), 3);
        // A socket keeps few datagrams for who does not read them.
        let counting = async {
            let mut all = 0;
            for _ in 0..8 * 60 {
                tokio::time::sleep(Duration::from_secs(15)).await;
                all += count();
            }
            all
        };
        assert_eq!(manager.wait_for(counting).await, 30 * 6 - 1);
    }

    #[test]
    fn words_are_lines_and_a_reload_carries_the_clock() {
        let listener = listener("words");
        let manager = manager_at(&listener);
        manager.tell(&[Word::Ready, Word::Status("one\ntwo")]);
        assert_eq!(heard(&listener), "READY=1\nSTATUS=one two\n");
        let before = monotonic_micros();
        manager.tell(&[Word::Reloading]);
        let text = heard(&listener);
        let micros: i64 = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim().parse().unwrap();
        assert!((before..=monotonic_micros()).contains(&micros));
        assert_eq!(manager.watchdog_interval(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_stored_descriptor_arrives_with_its_name() {
        let listener = listener("store");
        let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(manager_at(&listener).store("guard-1-v4", &[kept.as_fd()]).unwrap());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 128];
        let read =
            recvmsg(&listener, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let length = read.unwrap().bytes;
        assert_eq!(&bytes[..length], b"FDSTORE=1\nFDNAME=guard-1-v4\nFDPOLL=0\n");
        let fds: Vec<_> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(fds.len(), 1);
        let same = std::net::TcpListener::from(fds.into_iter().next().unwrap());
        assert_eq!(same.local_addr().unwrap(), kept.local_addr().unwrap());
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let nobody = Manager::default();
        nobody.tell(&[Word::Ready]);
        assert!(!nobody.store("x", &[]).unwrap());
        assert_eq!(nobody.watchdog_interval(), None);
    }

    #[test]
    fn a_watchdog_for_another_process_is_not_ours() {
        let text = |text: &str| Some(OsString::from(text));
        assert_eq!(watchdog(text("30").as_ref(), None, 7), Some(Duration::from_micros(30)));
        assert_eq!(watchdog(text("30").as_ref(), text("7").as_ref(), 7), Some(Duration::from_micros(30)));
        for (micros, pid) in [("30", "8"), ("0", "7"), ("x", "7"), ("30", "x")] {
            assert_eq!(watchdog(text(micros).as_ref(), text(pid).as_ref(), 7), None, "{micros} {pid}");
        }
    }
}
