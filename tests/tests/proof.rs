//! A guard that was protected once goes on trying whether it is.

use std::net::TcpListener;

use aya::maps::{Map, MapData, SockHash};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, Scene, apart, call, done};
use serde_json::json;

/// Neither pins nor rules differ, and the slot is not empty: only a connection tells.
#[test]
fn another_socket_in_the_guards_place_is_found_and_put_out() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| {
            daemon.config.kernel.prove_seconds = 1;
            Ok(())
        });
        let scene = scene.unwrap();
        let kernel = &scene.daemon.config.kernel;
        let data = MapData::from_pin(kernel.bpffs.join(&kernel.pins).join("maps/SOCKS")).unwrap();
        let mut sockets: SockHash<_, [u64; 2]> = Map::SockHash(data).try_into().unwrap();
        // The guard's slot for IPv4 in the guard's namespace: role 1, family 4, port 0.
        let netns = scene.daemon.status().unwrap()["kernel"]["netns"].as_u64().unwrap();
        let slot = [netns, u64::from_ne_bytes([0, 0, 1, 4, 0, 0, 0, 0])];
        assert!(sockets.keys().map(Result::unwrap).any(|key| key == slot), "the guard's own is there");
        let impostor = TcpListener::bind("127.0.0.1:0").unwrap();
        sockets.insert(slot, std::os::fd::AsRawFd::as_raw_fd(&impostor), 0).unwrap();

        let drifts = || -> Vec<(String, String)> {
            let ledger = scene.daemon.ledger().unwrap();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            ledger.of_kind("drift").map(|drift| (text(&drift["what"]), text(&drift["change"]))).collect()
        };
        let leads = format!("claim: {ADDRESS} leads to the guard");
        for change in ["found", "gone"] {
            let is_told = || Ok(drifts().contains(&(leads.clone(), change.to_owned())).then_some(()));
            assert!(eventually(START_LIMIT, is_told).unwrap().is_some(), "{change}: {:?}", drifts());
        }
        let calls = scene.puppet.answer_all(|message| done(message["id"].as_u64().unwrap()));
        let answer =
            scene.https.ask(&guard_tests::https::Request::post(&call(1, "open")).by(&scene.credential));
        assert_eq!(answer.unwrap().json()["result"]["isError"], false);
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(scene.daemon.output("status", &[]).unwrap().status.code(), Some(0));
    });
}
