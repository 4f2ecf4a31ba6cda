//! Starting programs in another network namespace. Needs root.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use guard_tests::netns::spawn_in;
use guard_tests::process::Fixture;
use nix::sched::{CloneFlags, unshare};

/// Runs `f` with the file of a new network namespace, outside of that namespace.
fn with_new_namespace<T>(f: impl FnOnce(&std::path::Path) -> T) -> T {
    let (send, receive) = mpsc::channel();
    let (over, wait) = mpsc::channel::<()>();
    // The namespace lives as long as this thread.
    let keeper = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("the privileged tests need root");
        send.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())).unwrap();
        wait.recv().unwrap_err();
    });
    let file = receive.recv().expect("a network namespace");
    let result = f(file.as_ref());
    drop(over);
    keeper.join().unwrap();
    result
}

#[test]
fn a_program_is_started_in_the_named_network_and_in_our_mounts() {
    with_new_namespace(|netns| {
        let mut command = Command::new("readlink");
        command.args(["/proc/self/ns/net", "/proc/self/ns/mnt"]).stdout(Stdio::piped());
        let output = spawn_in(Some(netns), command).unwrap().wait_with_output().unwrap();
        let theirs = fs::read_link(netns).unwrap();
        assert_ne!(theirs, fs::read_link("/proc/self/ns/net").unwrap());
        let mounts = fs::read_link("/proc/self/ns/mnt").unwrap();
        let expected = format!("{}\n{}\n", theirs.display(), mounts.display());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    });
}

#[test]
fn a_server_in_another_network_is_not_reached_from_ours() {
    with_new_namespace(|netns| {
        let listen = "0.0.0.0:0".parse().unwrap();
        let server = Fixture::start("static-upstream", Some(netns), listen, &[]).unwrap();
        let port = server.address.port();
        let here = TcpStream::connect(("127.0.0.1", port));
        assert_eq!(here.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    });
}
