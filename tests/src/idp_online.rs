//! An issuer that publishes its keys over HTTPS, and can be as bad at it as a test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};
use serde_json::json;

use crate::ca::TestCa;
use crate::idp::Idp;

/// How it answers.
#[derive(Debug, Clone)]
pub enum Manner {
    /// 200 with this document.
    Document(String),
    /// 200 with more than anybody reads.
    Oversized,
    /// The head, and then one byte a second.
    Slow,
    /// 302 to this place.
    Redirect(String),
    /// This status.
    Status(u16),
    /// The connection is closed.
    Closed,
}

/// It answers until the process ends.
pub struct IdpOnline {
    pub address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<AtomicUsize>,
}

impl IdpOnline {
    /// At a port of the calling thread's network, with a certificate of `ca`.
    pub fn start(address: SocketAddr, ca: &TestCa) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let tls = Arc::new(crate::tls::server_config(&ca.certificate(), &ca.key())?);
        let manner = Arc::new(Mutex::new(Manner::Closed));
        let asked = Arc::new(AtomicUsize::new(0));
        let (manners, counter) = (Arc::clone(&manner), Arc::clone(&asked));
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (tls, manners, counter) = (Arc::clone(&tls), Arc::clone(&manners), Arc::clone(&counter));
                thread::spawn(move || {
                    let Ok(connection) = ServerConnection::new(tls) else { return };
                    let mut stream = StreamOwned::new(connection, tcp);
                    let mut head = [0; 4096];
                    if !matches!(stream.read(&mut head), Ok(count) if count > 0) {
                        return;
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    let manner = manners.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // Whoever asked may be gone.
                    let _ = answer(&mut stream, &manner);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Ok(Self { address, manner, asked })
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}/jwks.json", self.address.port())
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Publishes these keys.
    pub fn publish(&self, keys: &[&Idp]) {
        let keys: Vec<_> = keys.iter().map(|idp| idp.jwk()).collect();
        self.behave(Manner::Document(json!({"keys": keys}).to_string()));
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(stream: &mut impl Write, manner: &Manner) -> std::io::Result<()> {
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
    };
    match manner {
        Manner::Document(text) => write!(stream, "{}{text}", head(text.len())),
        Manner::Oversized => {
            let text = vec![b' '; 1024 * 1024];
            stream.write_all(head(text.len()).as_bytes())?;
            stream.write_all(&text)
        }
        Manner::Slow => {
            stream.write_all(head(60).as_bytes())?;
            for _ in 0..60 {
                stream.write_all(b" ")?;
                stream.flush()?;
                thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        }
        Manner::Redirect(to) => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        }
        Manner::Status(status) => write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n"),
        Manner::Closed => Ok(()),
    }
}
