//! A connection that is frozen and made again with `TCP_REPAIR`, as checkpoints of processes do.

use std::io::{self, Read, Write};
use std::mem::size_of;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::{attacker_loop, checked};
use crate::probe::answer;

/// Of `include/uapi/linux/tcp.h`.
const TCP_REPAIR: libc::c_int = 19;
const TCP_REPAIR_QUEUE: libc::c_int = 20;
const TCP_QUEUE_SEQ: libc::c_int = 21;
const TCP_REPAIR_WINDOW: libc::c_int = 29;
const RECEIVE_QUEUE: u32 = 1;
const SEND_QUEUE: u32 = 2;

/// `struct tcp_repair_window`.
type Window = [u32; 5];

/// What is needed to make an end of a connection again.
struct Frozen {
    local: SocketAddr,
    remote: SocketAddr,
    sent: u32,
    received: u32,
    window: Window,
}

/// Connects, freezes its end and closes it without a packet. `thaw` makes the end again and says who answers on it.
pub fn run(target: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect(target.parse::<SocketAddr>()?)?;
    let met = answer(&stream);
    let frozen = freeze(stream)?;
    attacker_loop(&met, |words| match words {
        ["thaw"] => thaw(&frozen).unwrap_or_else(|error| json!({"error": error.to_string()})),
        other => json!({"error": format!("no such command: {other:?}")}),
    })
}

fn freeze(stream: TcpStream) -> io::Result<Frozen> {
    // What was received is acknowledged by now, so that both ends agree on the numbers.
    std::thread::sleep(Duration::from_millis(100));
    let socket = Socket::from(stream);
    set(&socket, TCP_REPAIR, &1_u32)?;
    let number = |queue: u32| -> io::Result<u32> {
        set(&socket, TCP_REPAIR_QUEUE, &queue)?;
        get(&socket, TCP_QUEUE_SEQ)
    };
    let (sent, received) = (number(SEND_QUEUE)?, number(RECEIVE_QUEUE)?);
    let window = get(&socket, TCP_REPAIR_WINDOW)?;
    let address = |address: socket2::SockAddr| address.as_socket().expect("an Internet address");
    Ok(Frozen {
        local: address(socket.local_addr()?),
        remote: address(socket.peer_addr()?),
        sent,
        received,
        window,
    })
}

fn thaw(frozen: &Frozen) -> io::Result<Value> {
    let socket = Socket::new(Domain::for_address(frozen.remote), Type::STREAM, None)?;
    set(&socket, TCP_REPAIR, &1_u32)?;
    socket.bind(&frozen.local.into())?;
    for (queue, number) in [(SEND_QUEUE, frozen.sent), (RECEIVE_QUEUE, frozen.received)] {
        set(&socket, TCP_REPAIR_QUEUE, &queue)?;
        set(&socket, TCP_QUEUE_SEQ, &number)?;
    }
    socket.connect(&frozen.remote.into())?;
    set(&socket, TCP_REPAIR_QUEUE, &0_u32)?;
    set(&socket, TCP_REPAIR_WINDOW, &frozen.window)?;
    set(&socket, TCP_REPAIR, &0_u32)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"server\n")?;
    let mut text = [0; 7];
    // The server echoes; nobody else knows the connection.
    stream.read_exact(&mut text)?;
    Ok(crate::probe::who(&String::from_utf8_lossy(&text)))
}

fn set<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("a small value");
    // SAFETY: `value` is a number or an array of numbers of the stated size.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    })?;
    Ok(())
}

fn get<T: Default>(socket: &Socket, option: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).expect("a small value");
    // SAFETY: the kernel writes at most `length` bytes into `value`, which is made of numbers alone.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}
