//! A C2SP witness (`tlog-witness`, `tlog-cosignature` v1): it signs a checkpoint of a log that it knows if that goes on from the one
//! that it signed before. Proofs and notes are checked by the code of others. It can be as bad as a test wants, too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use rustls::{ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::checkpoint::Checkpoint;
use tlog_tiles::tlog::{Hash, check_tree};

use crate::ca::TestCa;

const NAME: &str = "witness.test/1";
/// More proof lines are none, by the specification.
const PROOF_LINES_MAX: usize = 63;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As the specification says.
    Honest,
    /// Signs with a key of nobody.
    WrongKey,
    /// Signs with a time that is so many seconds away.
    WrongTime(i64),
    /// Signs another checkpoint than the one that it is shown.
    OtherText,
    /// 200 with what is no signature.
    NoSignature,
    /// 200 with more than anybody reads.
    Oversized,
    /// The head, and then one byte a second.
    Slow,
    /// This status.
    Status(u16),
    /// Says that it has signed one more record at each question, beginning here.
    Climbing(u64),
    /// The connection is closed.
    Closed,
}

/// It answers until the process ends, and keeps what it signed in a file.
#[derive(Debug, Clone)]
pub struct Witness {
    pub address: SocketAddr,
    is_secret: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    manner: Manner,
    /// By origin.
    logs: BTreeMap<String, Log>,
    file: PathBuf,
    asked: usize,
    /// Old sizes and sizes of what it was shown.
    shown: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Log {
    key: String,
    size: u64,
    root: Hash,
}

/// Status, content type, text.
type Answer = (u16, &'static str, String);

impl Witness {
    /// At an address of the calling thread's network, with its file in `dir`; with a certificate of `ca`, over TLS.
    pub fn start(address: SocketAddr, dir: &Path, ca: Option<&TestCa>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let tls = ca.map(|ca| crate::tls::server_config(&ca.certificate(), &ca.key())).transpose()?;
        let tls = tls.map(Arc::new);
        let state = State {
            manner: Manner::Honest,
            logs: BTreeMap::new(),
            file: dir.join("witness-state"),
            asked: 0,
            shown: Vec::new(),
        };
        let witness = Self {
            address: listener.local_addr()?,
            is_secret: tls.is_some(),
            state: Arc::new(Mutex::new(state)),
        };
        let own = witness.clone();
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (own, tls) = (own.clone(), tls.clone());
                thread::spawn(move || {
                    // Whoever asked may be gone.
                    let _ = match tls {
                        None => own.serve(tcp),
                        Some(tls) => {
                            let Ok(connection) = ServerConnection::new(tls) else { return };
                            let mut stream = StreamOwned::new(connection, tcp);
                            let served = own.serve(&mut stream);
                            stream.conn.send_close_notify();
                            let _ = stream.flush();
                            served
                        }
                    };
                });
            }
        });
        Ok(witness)
    }

    pub fn url(&self) -> String {
        let scheme = if self.is_secret { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/log", self.address.port())
    }

    /// Its verifier key.
    pub fn key(&self) -> String {
        let public = key().verifying_key().to_bytes();
        format!("{NAME}+{}+{}", hex(&key_id(NAME, &public)), BASE64.encode([&[4], &public[..]].concat()))
    }

    /// From now on it knows the log with this verifier key. What it signed of the log's origin stays.
    pub fn trust(&self, key: &str) {
        let origin = key.split('+').next().unwrap_or_default().to_owned();
        let mut state = self.lock();
        let log =
            state.logs.entry(origin).or_insert(Log { key: String::new(), size: 0, root: Hash([0; 32]) });
        key.trim_end().clone_into(&mut log.key);
    }

    pub fn behave(&self, manner: Manner) {
        self.lock().manner = manner;
    }

    /// Records of the latest checkpoint that it signed, of the only log that it knows, as its file says.
    pub fn size(&self) -> u64 {
        let text = fs::read_to_string(&self.lock().file).unwrap_or_default();
        text.split(' ').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0)
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.lock().asked
    }

    /// Old sizes and sizes of all that it was shown.
    pub fn shown(&self) -> Vec<(u64, u64)> {
        self.lock().shown.clone()
    }

    /// Whether a line of `note` is its signature over the text.
    pub fn has_signed(&self, note: &str) -> bool {
        let Some((text, lines)) = note.split_once("\n\n") else { return false };
        let start = format!("\u{2014} {NAME} ");
        let line = lines.lines().find_map(|line| line.strip_prefix(&start));
        let Some(bytes) = line.and_then(|line| BASE64.decode(line).ok()).filter(|bytes| bytes.len() == 76)
        else {
            return false;
        };
        let time = u64::from_be_bytes(bytes[4..12].try_into().unwrap_or_default());
        let message = format!("cosignature/v1\ntime {time}\n{text}\n");
        let signature = ed25519_dalek::Signature::from_slice(&bytes[12..]);
        signature.is_ok_and(|signature| key().verify(message.as_bytes(), &signature).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: impl Read + Write) -> anyhow::Result<()> {
        let (path, body) = request(&mut stream)?;
        let manner = {
            let mut state = self.lock();
            state.asked += 1;
            state.manner
        };
        let (status, content_type, text) = match manner {
            Manner::Closed => return Ok(()),
            Manner::Status(status) => (status, "text/plain", String::new()),
            Manner::NoSignature => (200, "text/plain", "thank you\n".into()),
            Manner::Oversized => (200, "text/plain", "\u{2014} x AAAA\n".repeat(64 * 1024)),
            Manner::Slow => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")?;
                for _ in 0..60 {
                    stream.write_all(b" ")?;
                    stream.flush()?;
                    thread::sleep(Duration::from_secs(1));
                }
                return Ok(());
            }
            Manner::Climbing(from) => {
                let size = from + u64::try_from(self.asked())?;
                (409, "text/x.tlog.size", format!("{size}\n"))
            }
            _ if path != "/log/add-checkpoint" => (404, "text/plain", "nothing is here\n".into()),
            _ => self.add_checkpoint(&body, manner)?,
        };
        write!(
            stream,
            "HTTP/1.1 {status} x\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )?;
        Ok(stream.flush()?)
    }

    fn add_checkpoint(&self, body: &str, manner: Manner) -> anyhow::Result<Answer> {
        let no = |status, why: &str| Ok((status, "text/plain", format!("{why}\n")));
        let Some((old, proof, note)) = parts(body) else { return no(400, "that is no submission") };
        let Ok(signed) = Note::from_bytes(note.as_bytes()) else { return no(400, "that is no note") };
        let Ok(checkpoint) = Checkpoint::from_bytes(signed.text()) else {
            return no(400, "that is no checkpoint");
        };
        // Held until all is kept: another submission must not come between.
        let mut state = self.lock();
        state.shown.push((old, checkpoint.size()));
        let Some(log) = state.logs.get(checkpoint.origin()) else { return no(404, "no such log") };
        let verifier = StandardVerifier::new(&log.key).ok().context("the log's key")?;
        if signed.verify(&VerifierList::new(vec![Box::new(verifier)])).is_err() {
            return no(403, "no signature of the log's key");
        }
        if old > checkpoint.size() {
            return no(400, "it is older than the old one");
        }
        if old != log.size {
            return Ok((409, "text/x.tlog.size", format!("{}\n", log.size)));
        }
        let (size, root) = (checkpoint.size(), *checkpoint.hash());
        if old == size && old > 0 && root != log.root {
            return no(409, "another root of the same size");
        }
        let grows = if old == 0 || old == size {
            proof.is_empty()
        } else {
            check_tree(&proof, size, root, old, log.root).is_ok()
        };
        if !grows {
            return no(422, "it does not go on from the old one");
        }
        if let Some(log) = state.logs.get_mut(checkpoint.origin()) {
            (log.size, log.root) = (size, root);
        }
        state.keep()?;
        let text = String::from_utf8(signed.text().to_vec())?;
        Ok((200, "text/plain", cosignature(&text, manner)?))
    }
}

impl State {
    fn keep(&self) -> anyhow::Result<()> {
        let line = |(origin, log): (&String, &Log)| format!("{origin} {} {}\n", log.size, hex(&log.root.0));
        let text: String = self.logs.iter().map(line).collect();
        let next = self.file.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(fs::rename(next, &self.file)?)
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[0x57; 32])
}

fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', 4]).chain_update(public).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn cosignature(text: &str, manner: Manner) -> anyhow::Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let time = match manner {
        Manner::WrongTime(seconds) => now + seconds,
        _ => now,
    };
    let text = match manner {
        Manner::OtherText => text.replace('\n', "\n1"),
        _ => text.to_owned(),
    };
    let key_used = match manner {
        Manner::WrongKey => SigningKey::from_bytes(&[0x58; 32]),
        _ => key(),
    };
    let signature = key_used.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes());
    let id = key_id(NAME, &key().verifying_key().to_bytes());
    let bytes = [&id[..], &u64::try_from(time)?.to_be_bytes(), &signature.to_bytes()].concat();
    // One of another witness's key comes first, as it may.
    let stranger = BASE64.encode([0; 76]);
    Ok(format!("\u{2014} other.test/1 {stranger}\n\u{2014} {NAME} {}\n", BASE64.encode(bytes)))
}

/// Old size, proof and note of a submission.
fn parts(body: &str) -> Option<(u64, Vec<Hash>, &str)> {
    let (head, note) = body.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let digits = lines.next()?.strip_prefix("old ")?;
    let old: u64 = digits.parse().ok().filter(|old: &u64| old.to_string() == digits)?;
    let proof: Vec<Hash> = lines.map(|line| Hash::parse_hash(line).ok()).collect::<Option<_>>()?;
    (proof.len() <= PROOF_LINES_MAX).then_some((old, proof, note))
}

/// Path and body.
fn request(stream: &mut impl Read) -> anyhow::Result<(String, String)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.context("no length")? {
                anyhow::ensure!(head.starts_with("POST "), "{head}");
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                return Ok((path, body.to_owned()));
            }
        }
        let count = stream.read(&mut part)?;
        anyhow::ensure!(count > 0, "it broke off");
        bytes.extend_from_slice(&part[..count]);
    }
}
