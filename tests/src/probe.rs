//! The simplest server and client, as `steer-probe` runs them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How long a client waits. Long enough for a busy machine; a refusal does not wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers every connection with `word` and a newline, then echoes.
pub fn serve(listener: &TcpListener, word: &str) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let greeting = format!("{word}\n");
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            if stream.write_all(greeting.as_bytes()).is_err() {
                return;
            }
            while let Ok(read) = stream.read(&mut bytes) {
                if read == 0 || stream.write_all(&bytes[..read]).is_err() {
                    return;
                }
            }
        });
    }
}

/// What a client meets at an address: `{"guard":true,...}`, `{"server":true}`, `{"shadow":true}`, `{"refused":true}` or
/// `{"error":...}`, with its own pid and address, and the milliseconds that `connect` took.
pub fn connect(address: SocketAddr) -> Value {
    let start = std::time::Instant::now();
    let stream = TcpStream::connect_timeout(&address, PATIENCE);
    let took = u64::try_from(start.elapsed().as_millis()).expect("a short time");
    let mut met = match stream {
        Ok(stream) => answer(&stream),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => json!({"refused": true}),
        Err(error) => json!({"error": error.to_string()}),
    };
    met["client_pid"] = json!(std::process::id());
    met["milliseconds"] = json!(took);
    met
}

/// Panics unless the other side, or the kernel, has ended the connection.
pub fn assert_ended(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let ended = stream.write_all(b"y").and_then(|()| {
        loop {
            // What came before the end may still be there.
            match stream.read(&mut [0; 64]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    });
    let hangs = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!hangs, "the connection lives on, or hangs instead of ending");
}

/// Who greets on this connection, as in [`connect`].
pub fn answer(stream: &TcpStream) -> Value {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    let mut met = match read {
        Err(error) => json!({"error": error.to_string()}),
        Ok(0) => json!({"error": "closed"}),
        Ok(_) => who(&line),
    };
    met["client"] = json!(stream.local_addr().expect("a connected socket has an address"));
    met
}

/// Whose greeting this line is, as in [`connect`].
pub fn who(line: &str) -> Value {
    match line.trim_end() {
        "server" => json!({"server": true}),
        "shadow" => json!({"shadow": true}),
        text => serde_json::from_str(text)
            .unwrap_or_else(|_| json!({"error": format!("unknown answer {text:?}")})),
    }
}
