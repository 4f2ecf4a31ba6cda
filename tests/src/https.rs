//! The barest HTTP client: it sends the bytes that it is told to, and shows the bytes that come back as they come.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use socket2::SockRef;

use crate::daemon::Credential;
use crate::mtls::Identity;

/// How long a line waits for bytes. Far more than a busy machine needs; only a failing test waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where lines go and whom they trust.
#[derive(Debug, Clone)]
pub struct Https {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Https {
    /// Offers this protocol in the TLS handshake instead of HTTP/1.1.
    #[must_use]
    pub fn speaking(mut self, protocol: &str) -> Self {
        Arc::make_mut(&mut self.tls).alpn_protocols = vec![protocol.into()];
        self
    }

    /// HTTP/1.1 by TLS, to whoever has a certificate of this CA for `localhost`.
    pub fn new(address: SocketAddr, ca: &Path) -> anyhow::Result<Self> {
        let mut tls = crate::tls::client_config(Some(ca))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// Shows this certificate when it is asked for one.
    pub fn showing(mut self, identity: &Identity) -> anyhow::Result<Self> {
        let own = identity.certified()?;
        let tls = Arc::make_mut(&mut self.tls);
        tls.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(own));
        Ok(self)
    }

    /// Opens a connection.
    pub fn line(&self) -> anyhow::Result<Line> {
        self.line_over(tcp(self.address)?)
    }

    /// The same over a connection that is there already.
    pub fn line_over(&self, tcp: TcpStream) -> anyhow::Result<Line> {
        let tls = ClientConnection::new(self.tls.clone(), "localhost".try_into()?)?;
        let mut stream = StreamOwned::new(tls, tcp);
        stream.conn.complete_io(&mut stream.sock).context("the TLS handshake")?;
        let shown = stream.conn.peer_certificates().and_then(|chain| chain.first());
        let certificate = shown.map(|leaf| leaf.to_vec());
        let is_resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Ok(Line { stream: Box::new(stream), unread: Vec::new(), certificate, is_resumed })
    }

    /// Sends one request on a connection of its own.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        let mut line = self.line()?;
        line.send(&request.bytes())?;
        line.answer()
    }
}

/// Opens a connection without TLS.
pub fn plain(address: SocketAddr) -> anyhow::Result<Line> {
    Ok(Line { stream: Box::new(tcp(address)?), unread: Vec::new(), certificate: None, is_resumed: false })
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// A request that can be sent as it is, or with the faults that a test gives it.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// What a legacy client sends for this message.
    pub fn post(message: &Value) -> Self {
        let request = Self { method: "POST", path: "/mcp".into(), headers: Vec::new(), body: Vec::new() };
        request
            .with("Host", "localhost")
            .with("Content-Type", "application/json")
            .with("Accept", "application/json, text/event-stream")
            .body(message.to_string())
    }

    /// A request without a body, such as the GET of a stream.
    pub fn bare(method: &'static str) -> Self {
        let request = Self { method, path: "/mcp".into(), headers: Vec::new(), body: Vec::new() };
        request.with("Host", "localhost").with("Accept", "text/event-stream")
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another value for a header that it has.
    #[must_use]
    pub fn instead(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// As the agent with this credential.
    #[must_use]
    pub fn by(self, credential: &Credential) -> Self {
        self.with("X-Client-ID", &credential.client)
            .with("X-Profile-ID", &credential.profile)
            .with("Authorization", &format!("Bearer {}", credential.secret))
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            // Writing to a string cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if self.method == "POST" {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// One connection.
pub struct Line {
    stream: Box<dyn Stream>,
    /// Came, but nobody asked for it yet.
    unread: Vec<u8>,
    /// What the other side showed in the TLS handshake, in DER.
    pub certificate: Option<Vec<u8>>,
    /// The handshake went on from an earlier one.
    pub is_resumed: bool,
}

/// How a client goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Says so, as TLS has it.
    Ends,
    /// Closes the connection without a word.
    Closes,
    /// Resets it.
    Resets,
}

trait Stream: Read + Write + Send {
    fn tcp(&self) -> &TcpStream;

    fn say_goodbye(&mut self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn say_goodbye(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }

    fn say_goodbye(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()
    }
}

/// What came back.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.status, self.headers, self.text())
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    /// If the body is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

impl Line {
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Goes away.
    pub fn leave(mut self, how: Leaving) -> io::Result<()> {
        match how {
            Leaving::Ends => self.stream.say_goodbye(),
            Leaving::Closes => Ok(()),
            Leaving::Resets => SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO)),
        }
    }

    /// Waits no longer than this for the other side to take bytes or to send some.
    pub fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        let tcp = self.stream.tcp();
        tcp.set_write_timeout(Some(patience))?;
        tcp.set_read_timeout(Some(patience))
    }

    /// A whole answer.
    pub fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut answer = self.head()?;
        let is_chunked = answer.header("transfer-encoding") == Some("chunked");
        let length = answer.header("content-length").map(str::parse).transpose()?;
        if is_chunked {
            while let Some(chunk) = self.chunk()? {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = length {
            answer.body = self.take(length)?;
        } else if answer.status != 202 && answer.status != 204 {
            answer.body = self.rest()?;
        }
        Ok(answer)
    }

    /// An answer's head. Its body is still to come.
    pub fn head(&mut self) -> anyhow::Result<Answer> {
        let head = self.through(b"\r\n\r\n")?;
        let head = String::from_utf8(head)?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status =
            first.split(' ').nth(1).with_context(|| format!("no status line: {first:?}"))?.parse()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Ok(Answer { status, headers, body: Vec::new() })
    }

    /// The next chunk of a chunked body; none at its end.
    pub fn chunk(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let size = String::from_utf8(self.through(b"\r\n")?)?;
        let size =
            usize::from_str_radix(size.trim_end(), 16).with_context(|| format!("chunk size {size:?}"))?;
        let chunk = self.take(size)?;
        ensure!(self.take(2)? == b"\r\n", "a chunk without an end");
        Ok((size > 0).then_some(chunk))
    }

    /// Chunks until together they hold `words`; an error if the body ends before.
    pub fn chunks_until(&mut self, words: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        while !text.contains(words) {
            let chunk = self.chunk()?.with_context(|| format!("{words:?} is not in the body: {text:?}"))?;
            text.push_str(std::str::from_utf8(&chunk)?);
        }
        Ok(text)
    }

    /// Everything until the other side closes, in good order or not.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(0) => return Ok(std::mem::take(&mut self.unread)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_closed) => return Ok(std::mem::take(&mut self.unread)),
            }
        }
    }

    fn through(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            let found = self.unread.windows(end.len()).position(|window| window == end);
            if let Some(found) = found {
                return self.take(found + end.len());
            }
            if self.more()? == 0 {
                bail!("closed after {:?}", String::from_utf8_lossy(&self.unread));
            }
        }
    }

    /// The next bytes, this many.
    pub fn take(&mut self, count: usize) -> anyhow::Result<Vec<u8>> {
        while self.unread.len() < count {
            ensure!(self.more()? > 0, "closed within a body: {:?}", String::from_utf8_lossy(&self.unread));
        }
        Ok(self.unread.drain(..count).collect())
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.unread.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Answers one connection with `reply`.
    fn reply(reply: &'static [u8]) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.accept().unwrap().0.write_all(reply).unwrap());
        plain(address).unwrap()
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let mut line = reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 202 Accepted\r\n\r\n");
        let first = line.answer().unwrap();
        assert_eq!((first.status, first.text().as_str()), (200, "ab"));
        assert_eq!(line.answer().unwrap().status, 202);
        assert!(line.answer().is_err());
    }

    #[test]
    fn chunks_are_put_together() {
        let mut line =
            reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n");
        assert_eq!(line.answer().unwrap().text(), "abcde");
    }

    #[test]
    fn a_request_has_its_length_and_the_three_headers() {
        let credential = Credential { client: "c".into(), profile: "p".into(), secret: "s".into() };
        let request = Request::bare("POST").instead("Accept", "*/*").by(&credential).body("{}");
        let bytes = String::from_utf8(request.bytes()).unwrap();
        assert_eq!(
            bytes,
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nX-Client-ID: c\r\nX-Profile-ID: p\r\n\
             Authorization: Bearer s\r\nContent-Length: 2\r\n\r\n{}"
        );
    }
}
