//! A name server for tests: it says what it is told to say, over UDP and TCP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::world::Netns;

/// Where it listens.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// How soon a thread of it sees that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a datagram may carry without EDNS.
const DATAGRAM_BYTES_MAX: usize = 512;
const HEADER_BYTES: usize = 12;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// What is said of one name.
#[derive(Debug, Clone)]
pub enum Says {
    /// These addresses for so many seconds; none of a family that is not among them.
    Addresses(Vec<IpAddr>, u32),
    /// Another name, for so many seconds.
    Alias(&'static str, u32),
    /// An error's number: 2 is SERVFAIL, 3 NXDOMAIN.
    Error(u8),
    /// Addresses of the name, and beside them some that belong to another name.
    Beside(Vec<IpAddr>, &'static str, Vec<IpAddr>),
}

/// Ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    table: Arc<Mutex<BTreeMap<String, Says>>>,
    asked: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

impl NameServer {
    /// Listens at [`ADDRESS`] of a namespace. What it was not told of does not exist.
    pub fn start(netns: &Netns) -> Self {
        let server = Self { table: Arc::default(), asked: Arc::default(), is_over: Arc::default() };
        let (udp, tcp) = netns.run(|| {
            (UdpSocket::bind(ADDRESS).expect("a socket"), TcpListener::bind(ADDRESS).expect("a listener"))
        });
        udp.set_read_timeout(Some(LOOK_EVERY)).expect("a time limit");
        tcp.set_nonblocking(true).expect("a listener that does not wait");
        let answers = server.answers();
        let is_over = Arc::clone(&server.is_over);
        thread::spawn(move || {
            let mut room = [0; DATAGRAM_BYTES_MAX];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = udp.recv_from(&mut room) {
                    let mut answer = answers(&room[..length]);
                    if answer.len() > DATAGRAM_BYTES_MAX {
                        answer.truncate(question_end(&answer));
                        // Cut: ask by TCP. No answers.
                        answer[2] |= 2;
                        answer[6..8].fill(0);
                    }
                    udp.send_to(&answer, peer).expect("loopback takes it");
                }
            }
        });
        let answers = server.answers();
        let is_over = Arc::clone(&server.is_over);
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _peer)) => {
                        // One that goes away early has had its answer.
                        let _gone = serve(stream, &answers);
                    }
                    Err(_) => thread::sleep(LOOK_EVERY),
                }
            }
        });
        server
    }

    pub fn say(&self, name: &str, says: Says) {
        self.table.lock().expect("no panic").insert(name.to_owned(), says);
    }

    /// How often a name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().expect("no panic").iter().filter(|asked| *asked == name).count()
    }

    fn answers(&self) -> impl Fn(&[u8]) -> Vec<u8> + Send + 'static {
        let (table, asked) = (Arc::clone(&self.table), Arc::clone(&self.asked));
        move |question| {
            let name = name_of(question);
            asked.lock().expect("no panic").push(name.clone());
            answer(question, table.lock().expect("no panic").get(&name))
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, answers: &impl Fn(&[u8]) -> Vec<u8>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK_EVERY * 10))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    let answer = answers(&question);
    let length = u16::try_from(answer.len()).expect("no more than a message holds");
    stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())
}

/// The name in the question, in small letters: a resolver may mix them.
fn name_of(question: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut rest = &question[HEADER_BYTES..];
    while let [length, tail @ ..] = rest
        && *length > 0
    {
        let (label, tail) = tail.split_at((*length).into());
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        rest = tail;
    }
    labels.join(".")
}

fn question_end(message: &[u8]) -> usize {
    let name: usize = message[HEADER_BYTES..].iter().position(|byte| *byte == 0).expect("a name's end");
    HEADER_BYTES + name + 1 + 4
}

fn answer(question: &[u8], says: Option<&Says>) -> Vec<u8> {
    /// Points at the name in the question.
    const NAME: [u8; 2] = [0xc0, 12];
    let end = question_end(question);
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let fits = |ip: &&IpAddr| kind == if ip.is_ipv4() { A } else { AAAA };
    let mut records = Vec::new();
    let mut add = |name: &[u8], ips: &[IpAddr], ttl: u32| {
        for ip in ips.iter().filter(fits) {
            let data = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            records.push(record(name, kind, ttl, &data));
        }
    };
    let mut code = 0;
    match says {
        Some(Says::Addresses(ips, ttl)) => add(&NAME, ips, *ttl),
        Some(Says::Beside(ips, other, others)) => {
            add(&NAME, ips, 1);
            add(&encoded(other), others, 1);
        }
        Some(Says::Alias(target, ttl)) => records.push(record(&NAME, CNAME, *ttl, &encoded(target))),
        Some(Says::Error(number)) => code = *number,
        None => code = 3,
    }
    let mut message = question[..end].to_vec();
    // An answer; recursion is available.
    message[2] |= 0x80;
    message[3] = 0x80 | code;
    let count = u16::try_from(records.len()).expect("no more than a message counts");
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message[8..HEADER_BYTES].fill(0);
    message.extend(records.concat());
    message
}

fn record(name: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    const INTERNET: u16 = 1;
    let length = u16::try_from(data.len()).expect("a short record");
    [name, &kind.to_be_bytes(), &INTERNET.to_be_bytes(), &ttl.to_be_bytes(), &length.to_be_bytes(), data]
        .concat()
}

fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        let length = u8::try_from(label.len()).expect("a short label");
        std::iter::once(length).chain(label.bytes()).collect::<Vec<_>>()
    });
    labels.chain([0]).collect()
}
