//! Every hostile request of the corpus reaches a server, byte for byte, when only a relay is in between. What the guard
//! refuses is therefore the guard's doing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use guard_tests::corpus::{self, Case};
use guard_tests::relay::Relay;

/// Sends the request through `relay` and returns what the server behind it got.
fn through(relay: SocketAddr, server: &TcpListener, request: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut stream = TcpStream::connect(relay).unwrap();
            stream.write_all(request).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // Until the server hangs up.
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        let (mut stream, _) = server.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        drop(stream);
        client.join().unwrap();
        got
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_hostile_request_passes_a_plain_relay() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::plain(server.local_addr().unwrap()).await.unwrap();
    let mut hostile = 0;
    for transport in ["json", "http"] {
        for case in corpus::cases(transport).unwrap().into_iter().filter(Case::is_hostile) {
            let request = case.on_the_wire("");
            assert!(!request.is_empty(), "{}", case.name);
            let got = tokio::task::block_in_place(|| through(relay.address, &server, &request));
            assert!(got == request, "{} did not arrive as it was sent", case.name);
            hostile += 1;
        }
    }
    assert!(hostile > 0);
}
