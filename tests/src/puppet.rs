//! An MCP server that does only what the test does: it hears a request and answers byte by byte, when the test wants.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use socket2::SockRef;

/// How long a test waits for a request. Only a failing test waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listens until the process ends. One request a connection: its answers say `Connection: close`.
#[derive(Debug)]
pub struct Puppet {
    heard: Receiver<Heard>,
    listener: Option<TcpListener>,
    bytes: Bytes,
}

/// How many arrived, also of what is no whole request.
type Bytes = Arc<AtomicU64>;

/// A request that arrived, and the way back.
#[derive(Debug)]
pub struct Heard {
    /// The request line and the headers.
    pub head: String,
    pub body: Vec<u8>,
    stream: TcpStream,
    bytes: Bytes,
}

impl Puppet {
    /// Listens at the address in the network of the calling thread.
    pub fn at(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::on(TcpListener::bind(address)?))
    }

    /// Takes the connections of `listener`.
    pub fn on(listener: TcpListener) -> Self {
        let (tell, heard) = mpsc::channel();
        let (kept, bytes) = (listener.try_clone().ok(), Bytes::default());
        let count = Arc::clone(&bytes);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (tell, count) = (tell.clone(), Arc::clone(&count));
                thread::spawn(move || hear(stream, &tell, count));
            }
        });
        Self { heard, listener: kept, bytes }
    }

    /// Closes its listener.
    pub fn stop(&mut self) -> io::Result<()> {
        self.listener.take().map_or(Ok(()), |listener| SockRef::from(&listener).shutdown(Shutdown::Both))
    }

    /// Counts the bytes that arrive, also those of requests that end in the middle.
    pub fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// The next request.
    pub fn hear(&self) -> anyhow::Result<Heard> {
        self.heard.recv_timeout(PATIENCE).context("no request reached the server")
    }

    /// Answers every request from now on with `answer` of its message. The count is of those that arrived.
    pub fn answer_all(self, answer: fn(&Value) -> Value) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        self.answer_each(move |message| {
            counter.fetch_add(1, Ordering::SeqCst);
            answer(message)
        });
        count
    }

    /// The same with whatever `answer` does besides.
    pub fn answer_each(self, answer: impl Fn(&Value) -> Value + Send + 'static) {
        thread::spawn(move || {
            for heard in self.heard {
                let answer = answer(&heard.message());
                // Whoever asked may be gone.
                let _ = heard.answer(&answer);
            }
        });
    }

    /// A request that has arrived already.
    pub fn heard(&self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }
}

/// Connections that end without a request, such as a canary's, are nothing to hear.
fn hear(stream: TcpStream, tell: &Sender<Heard>, bytes: Bytes) {
    let Ok((head, body)) = read(&stream, &bytes) else { return };
    // A test that fills every buffer on the way fails instead of hanging.
    let Ok(()) = stream.set_write_timeout(Some(PATIENCE)) else { return };
    // The test may be over; then nobody wants it.
    let _ = tell.send(Heard { head, body, stream, bytes });
}

fn read(stream: &TcpStream, count: &AtomicU64) -> anyhow::Result<(String, Vec<u8>)> {
    let mut stream = Counting(stream, count);
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let mut some = [0; 4096];
        let count = stream.read(&mut some)?;
        ensure!(count > 0, "no request");
        bytes.extend_from_slice(&some[..count]);
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes)?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().map_or(Ok(0), |(_, length)| length.parse::<usize>())?;
    let have = body.len();
    body.resize(length.max(have), 0);
    stream.read_exact(&mut body[have..])?;
    Ok((head, body))
}

/// A stream whose bytes are counted as they are read.
struct Counting<'a>(&'a TcpStream, &'a AtomicU64);

impl Read for Counting<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(into)?;
        self.1.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::SeqCst);
        Ok(count)
    }
}

impl Heard {
    /// The message that was sent.
    ///
    /// # Panics
    /// If it is no JSON.
    pub fn message(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A whole JSON answer.
    pub fn answer(mut self, message: &Value) -> io::Result<()> {
        self.json("Connection: close\r\n", message)
    }

    /// The same with more headers, each with its line end.
    pub fn answer_with(mut self, headers: &str, message: &Value) -> io::Result<()> {
        self.json(&format!("Connection: close\r\n{headers}"), message)
    }

    /// A whole JSON answer on a connection that may be used again.
    pub fn answer_and_stay(&mut self, message: &Value) -> io::Result<()> {
        self.json("", message)
    }

    fn json(&mut self, headers: &str, message: &Value) -> io::Result<()> {
        let body = message.to_string();
        self.write(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// The next request on the same connection takes this one's place.
    pub fn hear_again(&mut self) -> anyhow::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        (self.head, self.body) = read(&self.stream, &self.bytes)?;
        Ok(())
    }

    /// Begins a stream of events, which ends when this is dropped.
    pub fn stream(&mut self) -> io::Result<()> {
        self.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    }

    /// A write fails if nobody takes anything for so long.
    pub fn at_most(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(patience))
    }

    pub fn event(&mut self, message: &Value) -> io::Result<()> {
        self.write(format!("event: message\ndata: {message}\n\n"))
    }

    /// Waits until the other side is gone.
    pub fn other_side_leaves(&mut self) -> anyhow::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        match self.stream.read(&mut [0; 16]) {
            Ok(0) => Ok(()),
            Ok(_) => anyhow::bail!("it sent something else"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => anyhow::bail!("it is still there"),
            Err(_reset) => Ok(()),
        }
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_heard_whole_and_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let puppet = Puppet::on(listener);
        let bytes = puppet.bytes();
        drop(TcpStream::connect(address).unwrap());
        TcpStream::connect(address).unwrap().write_all(b"PO").unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 7\r\n\r\n{\"a\"").unwrap();
        client.write_all(b":1}").unwrap();
        let heard = puppet.hear().unwrap();
        assert_eq!(heard.message(), json!({"a": 1}));
        assert_eq!(heard.header("Content-Length"), Some("7"));
        let whole = "POST / HTTP/1.1\r\ncontent-length: 7\r\n\r\n{\"a\":1}".len() + "PO".len();
        while bytes.load(Ordering::SeqCst) < u64::try_from(whole).unwrap() {
            thread::yield_now();
        }
        heard.answer(&json!({})).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert!(reply.ends_with("\r\n\r\n{}"), "{reply}");
        assert!(puppet.heard().is_none());
    }
}
