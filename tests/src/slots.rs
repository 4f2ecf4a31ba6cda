//! Places at protected ports for servers that choose their own ports: the client scenarios of the conformance suite make
//! a server for each run, which lives a second.
//!
//! A guard protects the slots' ports. Who asks for a slot with the URL of a server gets the URL at which the guard stands
//! before it; the slot passes every byte on to the server, until the one who asked hangs up.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use anyhow::{Context, ensure};

/// A protected port, and the path at which its servers have their endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub port: u16,
    pub path: &'static str,
}

/// Where slots are given out.
#[derive(Debug)]
pub struct Slots {
    /// Where slots are asked for.
    pub address: SocketAddr,
}

#[derive(Debug)]
struct Desk {
    free: Mutex<Vec<(Slot, Arc<Passage>)>>,
    came_back: Condvar,
}

/// What is behind a slot.
#[derive(Debug, Default)]
struct Passage {
    /// The server's port; 0 without one.
    port: AtomicU16,
    /// Connections of this server. The guard keeps some for later, which would be another server's calls.
    open: Mutex<Vec<TcpStream>>,
}

impl Slots {
    /// Listens at every slot, in the network of the calling thread, until the process ends.
    pub fn open(slots: &[Slot]) -> anyhow::Result<Self> {
        let mut free = Vec::new();
        for slot in slots {
            let passage = Arc::new(Passage::default());
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, slot.port))?;
            free.push((slot.clone(), Arc::clone(&passage)));
            thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let passage = Arc::clone(&passage);
                    // An error ends the connection, which is all that can be done about it.
                    thread::spawn(move || passage.pass(&client));
                }
            });
        }
        let desk = Arc::new(Desk { free: Mutex::new(free), came_back: Condvar::new() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for guest in listener.incoming().map_while(Result::ok) {
                let desk = Arc::clone(&desk);
                thread::spawn(move || {
                    if let Err(error) = desk.serve(&guest) {
                        eprintln!("slots: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address })
    }

    /// Asks for a slot before the server at `url`. It is there as long as the stream that comes with its URL.
    pub fn ask(address: SocketAddr, url: &str) -> anyhow::Result<(String, TcpStream)> {
        let mut stream = TcpStream::connect(address)?;
        writeln!(stream, "{url}")?;
        let mut given = String::new();
        BufReader::new(&stream).read_line(&mut given)?;
        ensure!(!given.is_empty(), "there is no slot for {url}");
        Ok((given.trim().to_owned(), stream))
    }
}

impl Desk {
    fn serve(&self, guest: &TcpStream) -> anyhow::Result<()> {
        let mut lines = BufReader::new(guest).lines();
        let url = lines.next().context("nothing was asked")??;
        let rest = url.strip_prefix("http://localhost:").with_context(|| format!("{url} is not local"))?;
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let (slot, passage) = self.take(path)?;
        passage.port.store(port.parse()?, Ordering::SeqCst);
        writeln!(&mut &*guest, "https://localhost:{}{}", slot.port, slot.path)?;
        // Until it hangs up, however it does.
        let _ = lines.next();
        passage.close();
        self.free.lock().expect("no panic").push((slot, passage));
        self.came_back.notify_all();
        Ok(())
    }

    /// Waits for a free one.
    fn take(&self, path: &str) -> anyhow::Result<(Slot, Arc<Passage>)> {
        let mut free = self.free.lock().expect("no panic");
        loop {
            if let Some(at) = free.iter().position(|(slot, _)| slot.path == path) {
                return Ok(free.remove(at));
            }
            free = self.came_back.wait(free).expect("no panic");
        }
    }
}

impl Passage {
    /// Both ways, until both have ended. Without a server, the client is heard until it leaves: a guard that tries
    /// whether somebody is there must find that out.
    fn pass(&self, client: &TcpStream) -> io::Result<()> {
        let Ok(server) = TcpStream::connect(("localhost", self.port.load(Ordering::SeqCst))) else {
            return io::copy(&mut &*client, &mut io::sink()).map(drop);
        };
        self.open.lock().expect("no panic").push(server.try_clone()?);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
            // Broken is ended, too.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        };
        thread::scope(|scope| {
            scope.spawn(|| one_way(client, &server));
            one_way(&server, client);
        });
        Ok(())
    }

    /// Ends the connections to the server, and with each the guard's to this.
    fn close(&self) {
        self.port.store(0, Ordering::SeqCst);
        for server in self.open.lock().expect("no panic").drain(..) {
            // It may have ended already.
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}
