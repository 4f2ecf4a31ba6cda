//! The official conformance suite cannot tell the guard from the server behind it: every check ends as it ends without
//! a guard, under a policy that lets pass whatever the language of policies can name, and under one that lets pass what
//! it lists.
//!
//! The suite speaks plain HTTP with a connector, that one HTTPS with the real guard.

use std::thread;
use std::time::{Duration, Instant};

use guard_tests::conformance;
use guard_tests::connector::Connector;
use guard_tests::peers::Everything;
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use guard_tests::suite::{self, Report, Selection};
use serde_json::{Value, json};

/// What the agent of the suite may use.
type Matchers = Vec<Value>;

/// One run of the suite, and how long it took.
struct Run {
    report: Report,
    time: Duration,
}

impl Run {
    fn of(url: &str, selection: Selection) -> Self {
        let start = Instant::now();
        let report = suite::server(url, selection).unwrap();
        Self { report, time: start.elapsed() }
    }
}

/// A server that is started anew for each guard.
#[derive(Clone, Copy)]
enum Subject {
    /// The fixture, which has all that the suite asks for
    Rust,
    /// The npm server, which lacks most of it: the guard must not hide what fails
    Everything,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rmcp",
            Self::Everything => "everything",
        }
    }

    /// Starts it in the network of the calling thread, to live as long as what is returned.
    fn start(self) -> Box<dyn std::any::Any> {
        let null = ["--journal", "/dev/null"];
        match self {
            Self::Rust => Box::new(Fixture::start("conformance-server", None, ADDRESS, &null).unwrap()),
            Self::Everything => Box::new(Everything::start(Some(PORT)).unwrap()),
        }
    }

    /// What the suite asks for by name. Another server says itself that it does not have it.
    fn tools_and_prompts(self) -> Matchers {
        let mut matchers: Matchers =
            conformance::tools().iter().map(|tool| json!({"tool": tool.name})).collect();
        matchers.extend(
            [
                "test_simple_prompt",
                "test_prompt_with_arguments",
                "test_prompt_with_embedded_resource",
                "test_prompt_with_image",
                "test_input_required_result_prompt",
            ]
            .map(|name| json!({"prompt": name})),
        );
        if let Self::Everything = self {
            matchers.extend(
                [
                    "echo",
                    "get-annotated-message",
                    "get-env",
                    "get-resource-links",
                    "get-resource-reference",
                    "get-roots-list",
                    "get-structured-content",
                    "get-sum",
                    "get-tiny-image",
                    "gzip-file-as-resource",
                    "simulate-research-query",
                    "toggle-simulated-logging",
                    "toggle-subscriber-updates",
                    "trigger-elicitation-request",
                    "trigger-elicitation-request-async",
                    "trigger-long-running-operation",
                    "trigger-sampling-request",
                    "trigger-sampling-request-async",
                    "trigger-url-elicitation",
                ]
                .map(|name| json!({"tool": name})),
            );
            matchers.extend(
                ["simple-prompt", "args-prompt", "completable-prompt", "resource-prompt"]
                    .map(|name| json!({"prompt": name})),
            );
        }
        matchers
    }

    /// As much as a policy can let pass. Tools and prompts have exact names, and there is no `*` for methods, since
    /// that would let calls pass whatever they name; `p`, `r` and `t` begin the methods that name something.
    fn open(self) -> Matchers {
        let letters =
            ('a'..='z').filter(|letter| !"prt".contains(*letter)).map(|letter| format!("{letter}*"));
        let known = ["ping*", "prompts/list*", "resources/list*", "resources/t*", "tasks/*", "tools/list*"];
        let methods = letters.chain(known.map(str::to_owned)).map(|pattern| json!({"method": pattern}));
        self.tools_and_prompts().into_iter().chain(methods).chain([json!({"resource": "*"})]).collect()
    }

    /// What the guard answers by itself, in the words of 2026-07-28, and a server that does not know that revision in
    /// none of it: a request to subscribe that names no resource, so that no rule can allow it.
    fn answered_by_the_guard(self) -> &'static [&'static str] {
        match self {
            Self::Rust => &[],
            Self::Everything => &[
                "server-stateless: sep-2575-http-server-method-not-found-404-resources-subscribe #0: FAILURE",
                "server-stateless: sep-2575-http-server-method-not-found-404-resources-unsubscribe #0: FAILURE",
            ],
        }
    }

    /// What the server has, and nothing else.
    fn listed(self) -> Matchers {
        let mut matchers = self.tools_and_prompts();
        let resources: &[_] = match self {
            Self::Rust => &[
                "test://static-text",
                "test://static-binary",
                "test://watched-resource",
                "test://template/*",
            ],
            Self::Everything => &["demo://resource/*", "test://*"],
        };
        matchers.extend(resources.iter().map(|uri| json!({"resource": uri})));
        let methods: &[_] = match self {
            Self::Rust => &["completion/complete", "tasks/*"],
            Self::Everything => &["completion/complete", "tasks/*", "unknown/method"],
        };
        matchers.extend(methods.iter().map(|method| json!({"method": method})));
        matchers
    }

    fn direct(self, selections: &[Selection]) -> Vec<Run> {
        apart(|| {
            let _server = self.start();
            selections.iter().map(|selection| Run::of(&format!("http://{ADDRESS}/mcp"), *selection)).collect()
        })
    }

    fn guarded(self, matchers: &[Value], selections: &[Selection]) -> Vec<Run> {
        apart(|| {
            let _server = self.start();
            let mut daemon = guard("peer", &[("policy.yaml", &policy(matchers))]).unwrap();
            let credential = daemon.issue("suite").unwrap();
            daemon.start().unwrap();
            let connector = Connector::start(ADDRESS, &daemon.endpoint(PORT, &credential)).unwrap();
            let runs = selections.iter().map(|selection| Run::of(&connector.url(), *selection)).collect();
            // It was the guard that was asked.
            let calls = daemon.ledger().unwrap().of_kind("call").count();
            assert!(calls >= 3 * selections.len(), "the guard saw {calls} requests");
            runs
        })
    }
}

fn policy(matchers: &[Value]) -> String {
    let mut matchers = matchers.to_vec();
    for matcher in &mut matchers {
        matcher["server"] = "peer".into();
    }
    let policy = json!({
        "agents": {"suite": {"client_id": "suite-client"}},
        "intents": {"peer.use": matchers},
        "policies": [{"intent": "peer.use", "agents": ["suite"], "decision": "allow"}],
    });
    format!("{policy:#}")
}

/// Runs the selections without a guard and, at the same time, in networks of their own, with one and each policy.
/// Prints what was compared, fails on any difference, and returns the runs without a guard.
fn compare(subject: Subject, selections: &[Selection]) -> Vec<Run> {
    let (open, listed) = (subject.open(), subject.listed());
    let (direct, open, listed) = thread::scope(|scope| {
        let open = scope.spawn(|| subject.guarded(&open, selections));
        let listed = scope.spawn(|| subject.guarded(&listed, selections));
        let direct = subject.direct(selections);
        let done = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        (direct, done(open), done(listed))
    });
    println!(
        "server      scenarios of          guard and policy  scenarios  checks  passed  failed  seconds"
    );
    for (guard, runs) in [("none", &direct), ("open", &open), ("listed", &listed)] {
        for (selection, Run { report, time }) in selections.iter().zip(runs) {
            println!(
                "{:<10}  {:<20}  {guard:<16}  {:>9}  {:>6}  {:>6}  {:>6}  {:>7.1}",
                subject.name(),
                selection.to_string(),
                report.scenarios(),
                report.checks.len(),
                report.passed(),
                report.failed(),
                time.as_secs_f32(),
            );
        }
    }
    let mut differences = Vec::new();
    let mut expected = Vec::new();
    for (guard, runs) in [("open", &open), ("listed", &listed)] {
        for ((selection, before), after) in selections.iter().zip(&direct).zip(runs) {
            for line in before.report.differences(&after.report) {
                let own = subject.answered_by_the_guard().iter().find(|own| line.starts_with(**own));
                match own
                    .filter(|_| *selection == Selection::All("2026-07-28") && line.ends_with("then SUCCESS"))
                {
                    Some(own) => expected.push(*own),
                    None => differences.push(format!("{selection}, {guard}: {line}")),
                }
            }
            assert_eq!(before.report.is_success, after.report.is_success, "{selection}, {guard}");
        }
    }
    assert!(differences.is_empty(), "not as without a guard:\n{}", differences.join("\n"));
    // With each policy.
    assert_eq!(expected, subject.answered_by_the_guard().repeat(2));
    direct
}

/// A run that checked less than it did when this was written did not check what this file promises.
fn assert_at_least(selections: &[Selection], runs: &[Run], checks: &[usize]) {
    assert_eq!(runs.len(), checks.len());
    for ((selection, run), least) in selections.iter().zip(runs).zip(checks) {
        let made = run.report.checks.len();
        assert!(made >= *least, "{selection}: {made} checks are fewer than {least}:\n{}", run.report.log);
    }
}

#[test]
fn the_suite_cannot_tell_the_guard_from_the_rust_server() {
    let selections: Vec<_> = Selection::every().collect();
    let direct = compare(Subject::Rust, &selections);
    assert_at_least(&selections, &direct, &[3, 56, 84, 153, 84, 197]);
    for (selection, run) in selections.iter().zip(&direct) {
        assert!(run.report.is_success, "{selection} fails without a guard:\n{}", run.report.log);
    }
}

#[test]
fn the_suite_cannot_tell_the_guard_from_the_npm_server() {
    let selections: Vec<_> =
        Selection::every().filter(|selection| matches!(selection, Selection::All(_))).collect();
    let direct = compare(Subject::Everything, &selections);
    assert_at_least(&selections, &direct, &[3, 56, 70, 127]);
}

#[test]
fn what_a_policy_leaves_out_is_a_difference() {
    let selections = [Selection::All("2025-06-18")];
    let mut matchers = Subject::Rust.listed();
    matchers.retain(|matcher| matcher["tool"] != "test_simple_text");
    let (direct, guarded) =
        (Subject::Rust.direct(&selections), Subject::Rust.guarded(&matchers, &selections));
    let differences = direct[0].report.differences(&guarded[0].report);
    assert_eq!(differences.len(), 1, "{differences:#?}");
    assert!(differences[0].contains("tools-call-simple-text"), "{differences:#?}");
}
