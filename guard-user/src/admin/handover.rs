//! The way of a guard's listeners over the admin socket: one line that says what comes, then the descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::{Ask, ClientError};
use crate::kernel::{Handover, Manifest};

/// Descriptors in one message; the kernel takes no more than 253.
const FDS_AT_ONCE: usize = 250;
/// Longest line that says what comes.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the other guard may take beyond its drain time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(default)]
    handed: Vec<Manifest>,
    /// Of the guard that hands on.
    #[serde(default)]
    pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Asks the running guard for its listeners, and waits until it has gone. From the moment it is asked, it serves no new
/// connection; `drain` is how long it may take for those it has.
pub fn take_over(socket: &Path, drain: Duration) -> Result<Handover, ClientError> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|source| ClientError::NotRunning { path: socket.to_owned(), source })?;
    stream.set_read_timeout(Some(drain + PATIENCE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(&Ask::HandOver)?).as_bytes())?;
    let (line, fds) = receive(&stream)?;
    // It has stopped to serve: whatever it did not hand on, somebody must go on.
    let Line { handed, error, .. } = serde_json::from_slice(&line).unwrap_or_else(|error| {
        tracing::warn!("the running guard ended without a list of its listeners ({error}); the ports refuse until this one serves");
        Line { handed: Vec::new(), pid: 0, error: None }
    });
    if let Some(error) = error {
        return Err(ClientError::Refused(error));
    }
    // It holds the pins and the trail until its end, which closes this connection.
    let _nothing_more = stream.read(&mut [0; 1]);
    Ok(Handover::new(handed, fds))
}

/// Sends it. Not to be called on a thread that must not wait.
pub(super) fn send(stream: &UnixStream, handover: Handover) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (handed, fds) = handover.into_parts();
    let line = serde_json::to_string(&Line { handed, pid: std::process::id(), error: None })?;
    (&*stream).write_all(format!("{line}\n").as_bytes())?;
    for some in fds.chunks(FDS_AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&some)) {
            return Err(io::Error::other("too many descriptors at once"));
        }
        sendmsg(stream, &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL)?;
    }
    // The other side knows the end of the list by this.
    (&*stream).write_all(b"\n")
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut some = [0; 4096];
        let read = {
            let mut slices = [IoSliceMut::new(&mut some)];
            recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        bytes.extend_from_slice(some.get(..read).unwrap_or_default());
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let (line, rest) = (lines.next().unwrap_or_default().to_vec(), lines.next());
        // Either an error, which is one line, or a list that a second line's end closes.
        let is_whole = rest.is_some() && (lines.next().is_some() || line.starts_with(br#"{"error""#));
        if is_whole || read == 0 {
            return Ok((line, fds));
        }
        if bytes.len() > LINE_BYTES_MAX {
            return Err(io::Error::other("the list is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn more_listeners_than_one_message_takes_arrive() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listeners: Vec<_> =
            (0..FDS_AT_ONCE + 20).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let manifest = |listener: &TcpListener| Manifest {
            netns: crate::kernel::this_netns().unwrap(),
            listeners: vec![listener.local_addr().unwrap()],
            ports: BTreeMap::new(),
            policy: 1,
            generation: 1,
        };
        // A namespace has two listeners at most, and a map has each namespace once.
        let mut all = manifest(&listeners[0]);
        all.listeners = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let manifests = vec![all];
        let handover = Handover::new(manifests, listeners.into_iter().map(OwnedFd::from));
        let sender = std::thread::spawn(move || send(&ours, handover).unwrap());
        let (line, fds) = receive(&theirs).unwrap();
        sender.join().unwrap();
        let line: Line = serde_json::from_slice(&line).unwrap();
        assert_eq!(line.handed[0].listeners.len(), ports.len());
        let arrived: Vec<u16> =
            fds.into_iter().map(|fd| TcpListener::from(fd).local_addr().unwrap().port()).collect();
        assert_eq!(arrived, ports);
    }
}
