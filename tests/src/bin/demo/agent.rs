//! An agent: `mcp-agent`, a real MCP client built on rmcp, as an ordinary user in a process of its own.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use guard_tests::client::Endpoint;
use guard_tests::world::NOBODY;
use serde_json::Value;

use crate::interrupt;
use crate::screen::{Mark, Screen};

const POLL: Duration = Duration::from_millis(5);

/// One who calls tools.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// As the transcript names it.
    pub(crate) name: String,
    /// A copy of `mcp-agent` that an ordinary user may start.
    pub(crate) program: PathBuf,
    pub(crate) endpoint: Endpoint,
    /// Client, profile and secret, if it has any.
    pub(crate) credential: Option<[String; 3]>,
}

/// How calls ended, as `mcp-agent --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// `ok`, `refused` or `failed`
    pub(crate) outcome: String,
    pub(crate) text: String,
    /// The first and the last of the calls that ended so.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Agent {
    pub(crate) fn tools(&self) -> anyhow::Result<Vec<String>> {
        let (_, out, complaint) = self.run(&["list-tools"])?;
        let listed: Value = serde_json::from_str(&out)
            .with_context(|| format!("{} cannot list its tools: {}", self.name, complaint.trim()))?;
        let tools = listed["tools"].as_array().context("no list of tools")?;
        Ok(tools.iter().filter_map(|tool| tool.as_str().map(str::to_owned)).collect())
    }

    pub(crate) fn call(&self, tool: &str, arguments: &Value) -> anyhow::Result<Ended> {
        let mut ended = self.ended(&["call", tool, &arguments.to_string()])?;
        ensure!(ended.len() == 1, "one call ended in {ended:?}");
        ended.pop().context("no end")
    }

    /// Calls a tool `times` times; calls that ended alike, one after the other, are one item.
    pub(crate) fn repeat(&self, times: u64, tool: &str, arguments: &Value) -> anyhow::Result<Vec<Ended>> {
        self.ended(&["repeat", &times.to_string(), tool, &arguments.to_string()])
    }

    /// Calls a tool and prints the row. An error if the end is not `outcome` or does not say `says`.
    pub(crate) fn shows(
        &self,
        screen: &Screen,
        does: &str,
        (tool, arguments): (&str, &Value),
        (outcome, says): (&str, &str),
    ) -> anyhow::Result<()> {
        let ended = self.call(tool, arguments)?;
        if ended.outcome != outcome || !ended.text.contains(says) {
            bail!("{} does: {does}\n  expected: {outcome}, with {says:?}\n  got: {ended:?}", self.name);
        }
        ended.print(screen, &self.name, does);
        Ok(())
    }

    fn ended(&self, task: &[&str]) -> anyhow::Result<Vec<Ended>> {
        let (status, out, complaint) = self.run(task)?;
        if out.is_empty() {
            // No session: it says why, but not as JSON.
            ensure!(!status.success(), "{} said nothing", self.name);
            let text = complaint.trim().trim_start_matches("mcp-agent: ").to_owned();
            return Ok(vec![Ended { outcome: "failed".into(), text, from: 1, to: 1 }]);
        }
        out.lines()
            .map(|line| {
                let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
                let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
                let number = |name: &str| value[name].as_u64().unwrap_or(1);
                let (from, to) = (number("from"), number("to"));
                Ok(Ended { outcome: text("outcome"), text: text("text"), from, to })
            })
            .collect()
    }

    /// Its status, output and complaints.
    fn run(&self, task: &[&str]) -> anyhow::Result<(ExitStatus, String, String)> {
        let mut command = Command::new(&self.program);
        command.args(["--json", "--url", &self.endpoint.url]);
        if let Some(ca) = &self.endpoint.ca {
            command.arg("--ca").arg(ca);
        }
        command.env_remove("MCP_AGENT_SECRET");
        if let Some([client, profile, secret]) = &self.credential {
            command.args(["--client-id", client, "--profile", profile]).env("MCP_AGENT_SECRET", secret);
        }
        command.args(task).uid(NOBODY).gid(NOBODY).current_dir("/");
        finish(command)
    }
}

impl Ended {
    pub(crate) fn print(&self, screen: &Screen, who: &str, does: &str) {
        let mark = if self.outcome == "ok" { Mark::Good } else { Mark::Bad };
        screen.row(who, does, mark, &self.outcome, &brief(&self.text));
    }
}

/// Runs a short program to its end; a signal ends it and is an error.
pub(crate) fn finish(mut command: Command) -> anyhow::Result<(ExitStatus, String, String)> {
    interrupt::check()?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let (out, complaint) = (child.stdout.take(), child.stderr.take());
    let (out, complaint) = (thread::spawn(|| text(out)), thread::spawn(|| text(complaint)));
    let status = wait(&mut child)?;
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    interrupt::check()?;
    Ok((status, text(out), text(complaint)))
}

fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt::came() {
            child.kill()?;
            child.wait()?;
        }
        thread::sleep(POLL);
    }
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was said, short: of a refusal, the reason and the advice, without what is the same in each; of a
/// customer's record, whose it is; of a failure, the first clause of the error.
pub(crate) fn brief(text: &str) -> String {
    if let Ok(Value::Object(answer)) = serde_json::from_str(text) {
        let shown = |(name, value): (&String, &Value)| match value.as_str() {
            Some(text) => format!("{name} {text}"),
            None => format!("{name} {value}"),
        };
        let whose = answer.iter().filter(|(name, _)| ["name", "email"].contains(&name.as_str()));
        let whose: Vec<&str> = whose.filter_map(|(_, value)| value.as_str()).collect();
        if whose.is_empty() {
            let rest = answer.iter().filter(|(name, _)| *name != "customer_id");
            return rest.map(shown).collect::<Vec<_>>().join(", ");
        }
        return whose.join(", ");
    }
    if text.starts_with("no MCP session with ") {
        return text.split(": ").next().unwrap_or(text).to_owned();
    }
    let reason = text.strip_prefix("mcp-guard refused the call of ").and_then(|rest| rest.split_once(": "));
    let text = reason.map_or(text, |(_, reason)| reason);
    let text = text.split_once(" (decision ").map_or(text, |(text, _)| text);
    text.strip_suffix(" Trying again will not help.").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_cut_to_what_tells_something() {
        let refusal = "mcp-guard refused the call of pay: Not you. Trying again will not help. (decision 0a)";
        assert_eq!(brief(refusal), "Not you.");
        assert_eq!(
            brief(r#"{"customer_id":"C-1","name":"Ada","email":"a@b.example","orders":3}"#),
            "Ada, a@b.example"
        );
        assert_eq!(brief(r#"{"accepted":10,"state":"queued"}"#), "accepted 10, state queued");
        assert_eq!(
            brief("no MCP session with https://localhost: Send: x"),
            "no MCP session with https://localhost"
        );
        assert_eq!(brief("Unknown tool: x"), "Unknown tool: x");
    }
}
