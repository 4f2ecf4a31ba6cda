//! Those to whom the trail is exported: a receiver of syslog, and a collector of OpenTelemetry logs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::ca::TestCa;

/// A receiver of syslog over TLS, which hangs up after some messages of its first connection.
///
/// # Panics
/// If it cannot listen.
pub fn syslog(ca: &TestCa, hang_up_after: Option<usize>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    let config = secret(ca);
    let (send, messages) = mpsc::channel();
    thread::spawn(move || {
        let mut hang_up_after = hang_up_after;
        for tcp in listener.incoming().map_while(Result::ok) {
            let most = hang_up_after.take().unwrap_or(usize::MAX);
            let Ok(connection) = ServerConnection::new(Arc::clone(&config)) else { return };
            let _ended = receive(BufReader::new(StreamOwned::new(connection, tcp)), most, &send);
        }
    });
    (address, messages)
}

fn secret(ca: &TestCa) -> Arc<ServerConfig> {
    Arc::new(crate::tls::server_config(&ca.certificate(), &ca.key()).expect("it has a certificate"))
}

/// Frames of RFC 5425.
fn receive(mut from: impl BufRead, most: usize, send: &mpsc::Sender<String>) -> io::Result<()> {
    for _ in 0..most {
        let mut length = Vec::new();
        from.read_until(b' ', &mut length)?;
        let length = String::from_utf8_lossy(&length).trim_end().parse().map_err(io::Error::other)?;
        let mut message = vec![0; length];
        from.read_exact(&mut message)?;
        let message = String::from_utf8(message).map_err(io::Error::other)?;
        send.send(message).map_err(io::Error::other)?;
    }
    Ok(())
}

/// One request to a collector.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Its first line and its fields, as they came.
    pub head: String,
    pub bytes: usize,
    /// The records in it.
    pub records: Vec<Value>,
    /// What it was answered.
    pub status: u16,
}

/// A status, and fields of the answer, each with its line's end.
pub type Answer = (u16, &'static str);

/// A collector of OTLP over HTTP that listens on 127.0.0.1.
#[derive(Debug)]
pub struct Collector {
    pub address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Collector {
    /// `answer` sees what was posted, with no status yet. With a CA it speaks TLS.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn new(ca: Option<&TestCa>, answer: impl FnMut(&Posted) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let posted = Arc::new(Mutex::new(Vec::new()));
        let (config, all, mut answer) = (ca.map(secret), Arc::clone(&posted), answer);
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let serve = |posted| {
                    let mut posted: Posted = posted;
                    let (status, fields) = answer(&posted);
                    posted.status = status;
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(posted);
                    format!(
                        "HTTP/1.1 {status} X\r\n{fields}content-length: 2\r\nconnection: close\r\n\r\n{{}}"
                    )
                };
                // Who breaks off is not answered.
                let _ended = match &config {
                    None => exchange(tcp, serve),
                    Some(config) => ServerConnection::new(Arc::clone(config))
                        .map_err(io::Error::other)
                        .and_then(|tls| exchange(StreamOwned::new(tls, tcp), serve)),
                };
            }
        });
        Self { address, posted }
    }

    /// Everything so far.
    pub fn posted(&self) -> MutexGuard<'_, Vec<Posted>> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records that it took.
    pub fn taken(&self) -> Vec<Value> {
        let posted = self.posted();
        posted.iter().filter(|it| it.status == 200).flat_map(|it| it.records.clone()).collect()
    }
}

fn exchange(mut stream: impl Read + Write, serve: impl FnOnce(Posted) -> String) -> io::Result<()> {
    let mut from = BufReader::new(&mut stream);
    let (mut head, mut bytes) = (String::new(), 0);
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            bytes = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; bytes];
    from.read_exact(&mut body)?;
    let request: Value = serde_json::from_slice(&body)?;
    let records = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array();
    let record = |log: &Value| serde_json::from_str(log["body"]["stringValue"].as_str().unwrap_or_default());
    let records = records.into_iter().flatten().map(record).collect::<Result<_, _>>()?;
    let answer = serve(Posted { head, bytes, records, status: 0 });
    stream.write_all(answer.as_bytes())?;
    stream.flush()
}
