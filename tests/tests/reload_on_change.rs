//! `reload: on_change`: what is done to the policy folder is in force without a signal, and half of it never is.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Https, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{Scene, apart, call, done_for};
use mcp_guard::config::Reload;
use serde_json::{Value, json};

fn policy(decision: &str) -> String {
    format!(
        "agents: {{tester: {{client_id: test-client, profiles: [default, other]}}}}\n\
         intents: {{demo.open: [{{server: demo, tool: open}}]}}\n\
         policies: [{{intent: demo.open, agents: [tester], decision: {decision}}}]\n"
    )
}

struct Stage {
    daemon: Daemon,
    https: Https,
    credential: Credential,
    folder: PathBuf,
}

impl Stage {
    fn new(limits: &Value, reload: Reload) -> Self {
        let scene = Scene::with(limits, |daemon| {
            daemon.config.reload = reload;
            daemon.write_policy("policy.yaml", &policy("allow"))
        });
        let Scene { daemon, puppet, credential, https } = scene.unwrap();
        drop(puppet.answer_all(done_for));
        let folder = daemon.config.policy_dir.clone();
        Self { daemon, https, credential, folder }
    }

    fn call(&self) -> Request {
        Request::post(&call(1, "open")).by(&self.credential)
    }

    /// Whether a call is let through now.
    fn lets_through(&self) -> bool {
        let answer = self.https.ask(&self.call()).unwrap().json();
        answer.get("error").is_none() && answer["result"]["isError"] != true
    }

    fn becomes(&self, allowed: bool) {
        let seen = eventually(START_LIMIT, || Ok((self.lets_through() == allowed).then_some(())));
        seen.unwrap().unwrap_or_else(|| panic!("{}", self.daemon.log().unwrap()));
    }

    fn reload(&self) -> Value {
        self.daemon.status().unwrap()["reload"].clone()
    }

    /// As editors and configuration managers do.
    fn put(&self, name: &str, text: &str) {
        let beside = self.folder.join(format!(".{name}.new"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.folder.join(name)).unwrap();
    }

    /// How often the files were read and taken, the start included.
    fn taken(&self) -> usize {
        self.daemon.ledger().unwrap().of_kind("policy").count()
    }

    /// Waits until the guard watches: it reads the files once more then.
    fn watched(self) -> Self {
        let seen = eventually(START_LIMIT, || Ok((self.taken() >= 2).then_some(())));
        seen.unwrap().expect("the folder is watched");
        self
    }
}

fn watching() -> Stage {
    Stage::new(&json!({}), Reload::OnChange).watched()
}

#[test]
fn a_file_that_is_renamed_into_its_place_is_in_force_without_a_signal() {
    apart(|| {
        let stage = watching();
        assert!(stage.lets_through());
        let before = stage.reload();
        assert_eq!((&before["on_change"], &before["failed"]), (&json!(true), &Value::Null));
        stage.put("policy.yaml", &policy("deny"));
        stage.becomes(false);
        // Written in place, in one go.
        stage.daemon.write_policy("policy.yaml", &policy("allow")).unwrap();
        stage.becomes(true);
        // Another file, and its end.
        let deny = "policies: [{intent: demo.open, agents: [tester], decision: deny}]\n";
        stage.put("more.yaml", deny);
        stage.becomes(false);
        fs::remove_file(stage.folder.join("more.yaml")).unwrap();
        stage.becomes(true);
        // Credentials are read, too.
        let issued = stage.daemon.issue("tester").unwrap();
        let request = Request::post(&call(1, "open")).by(&issued);
        let known = eventually(START_LIMIT, || {
            let answer = stage.https.ask(&request).unwrap().json();
            Ok((answer["result"]["isError"] != true && answer.get("error").is_none()).then_some(()))
        });
        known.unwrap().expect("the new credential works");
    });
}

#[test]
fn a_mistake_keeps_the_last_good_policy_and_status_says_so_until_it_is_mended() {
    apart(|| {
        let stage = watching();
        let digest = stage.daemon.status().unwrap()["policy"].clone();
        stage.put("policy.yaml", &policy("dney"));
        let failed = eventually(START_LIMIT, || {
            let reload = stage.reload();
            Ok((!reload["failed"].is_null()).then_some(reload))
        });
        let failed = failed.unwrap().expect("status tells of it");
        let problem = &failed["failed"]["problems"][0];
        assert_eq!(
            (&problem["line"], &problem["hint"]),
            (&json!(3), &json!("did you mean \"deny\"?")),
            "{failed}"
        );
        assert_eq!(stage.daemon.status().unwrap()["policy"], digest);
        assert!(stage.lets_through(), "the last good policy is in force");
        let words = stage.daemon.output("status", &[]).unwrap();
        let words = String::from_utf8(words.stdout).unwrap();
        for part in ["NOT RELOADED   at ", "stays in force:", "policy.yaml:3:", "did you mean \"deny\"?"] {
            assert!(words.contains(part), "no {part:?} in {words}");
        }
        assert!(stage.daemon.log().unwrap().contains("the last good policy stays in force"));

        stage.put("policy.yaml", &policy("deny"));
        stage.becomes(false);
        assert_eq!(stage.reload()["failed"], Value::Null);
    });
}

#[test]
fn a_file_that_is_still_open_is_not_read_however_long_it_takes() {
    apart(|| {
        let stage = Stage::new(&json!({"reload_quiet_milliseconds": 300}), Reload::OnChange).watched();
        let deny = "policies: [{intent: demo.open, agents: [tester], decision: deny}]\n";
        stage.put("more.yaml", deny);
        stage.becomes(false);
        for is_new in [false, true] {
            let taken = stage.taken();
            let (path, mut open) = (stage.folder.join("more.yaml"), OpenOptions::new());
            // What is left after this is a policy as well, and one that allows the call.
            let mut file: File = if is_new {
                let beside = stage.folder.join(".more.yaml.old");
                fs::rename(&path, &beside).unwrap();
                open.write(true).create_new(true).open(path).unwrap()
            } else {
                let mut file = open.write(true).truncate(true).open(path).unwrap();
                file.write_all(b"# nothing here yet\n").unwrap();
                file
            };
            // Another change, which by itself would be read after 300 ms.
            stage.put("other.yaml", "# nothing\n");
            for _ in 0..30 {
                assert!(!stage.lets_through(), "half a file was read");
                thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(stage.taken(), taken);
            file.write_all(deny.as_bytes()).unwrap();
            drop(file);
            let read = eventually(START_LIMIT, || Ok((stage.taken() > taken).then_some(())));
            read.unwrap().expect("it is read once it is closed");
            assert!(!stage.lets_through());
        }
    });
}

#[test]
fn a_folder_that_is_switched_or_gone_for_a_while_is_followed() {
    apart(|| {
        let stage = watching();
        let [old, new] = ["old", "new"].map(|name| stage.folder.with_file_name(name));
        fs::create_dir(&new).unwrap();
        for entry in fs::read_dir(&stage.folder).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), new.join(entry.file_name())).unwrap();
        }
        fs::write(new.join("policy.yaml"), policy("deny")).unwrap();
        fs::rename(&stage.folder, &old).unwrap();
        // The last good policy serves as long as there is none.
        thread::sleep(Duration::from_millis(500));
        assert!(stage.lets_through());
        fs::rename(&new, &stage.folder).unwrap();
        stage.becomes(false);
        // What is watched now is the new one.
        stage.put("policy.yaml", &policy("allow"));
        stage.becomes(true);
        // A link that leads elsewhere from now on.
        fs::write(old.join("policy.yaml"), policy("deny")).unwrap();
        let link = stage.folder.with_file_name("link");
        std::os::unix::fs::symlink(&old, &link).unwrap();
        fs::rename(&stage.folder, stage.folder.with_file_name("third")).unwrap();
        fs::rename(&link, &stage.folder).unwrap();
        stage.becomes(false);
        stage.put("policy.yaml", &policy("allow"));
        stage.becomes(true);
        assert_eq!(stage.reload()["not_watched"], Value::Null);
    });
}

#[test]
fn without_on_change_nothing_is_read_unasked() {
    apart(|| {
        let stage = Stage::new(&json!({}), Reload::default());
        assert_eq!(stage.reload()["on_change"], false);
        stage.put("policy.yaml", &policy("deny"));
        thread::sleep(Duration::from_millis(1500));
        assert!(stage.lets_through() && stage.taken() == 1);
        stage.daemon.reload().unwrap();
        assert!(!stage.lets_through());
    });
}
