//! The daemon's side of the operator's API.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::{ASK_BYTES_MAX, Ask};
use crate::kernel::Handover;

/// How long an operator's command may take to send its line.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between attempts to accept when the process has no file descriptor left.
const RETRY: Duration = Duration::from_millis(100);

/// What is answered.
pub enum Reply {
    Json(Value),
    /// The listeners, and whom to give the connection to once they are sent: its end tells the other guard that this one
    /// is gone.
    Listeners(Handover, oneshot::Sender<std::os::unix::net::UnixStream>),
}

/// Opens the socket at `path`, mode 0600. One that a dead guard left is replaced; the kernel module's lock has made
/// sure by then that no other guard lives.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers operators for ever; `answer` is told who asks.
pub async fn serve<Answer>(
    listener: UnixListener,
    answer: impl Fn(Ask, u32) -> Answer + Send + Sync + 'static,
) where
    Answer: Future<Output = Reply> + Send + 'static,
{
    let answer = Arc::new(answer);
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &*answer).await {
                        tracing::debug!(%error, "an operator's command broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take an operator's command");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn converse<Answer>(stream: UnixStream, answer: &impl Fn(Ask, u32) -> Answer) -> io::Result<()>
where
    Answer: Future<Output = Reply>,
{
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(ASK_BYTES_MAX));
    tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await.map_err(io::Error::other)??;
    let reply = if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        Reply::Json(json!({ "error": "only root and the guard's own user may ask the guard" }))
    } else {
        match serde_json::from_str::<Ask>(&line) {
            Ok(ask) => answer(ask, uid).await,
            Err(error) => Reply::Json(json!({ "error": format!("not a request this guard knows: {error}") })),
        }
    };
    match reply {
        Reply::Json(reply) => write.write_all(format!("{reply}\n").as_bytes()).await,
        Reply::Listeners(handover, sent) => {
            let read = read.into_inner().into_inner();
            let stream = read.reunite(write).map_err(io::Error::other)?.into_std()?;
            let stream = tokio::task::spawn_blocking(move || {
                super::handover::send(&stream, handover).map(|()| stream)
            });
            // Who waits for it may have run out of patience.
            let _gone = sent.send(stream.await.map_err(io::Error::other)??);
            Ok(())
        }
    }
}
