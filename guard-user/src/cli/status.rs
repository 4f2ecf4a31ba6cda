//! `mcp-guard status`

use std::fmt::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::output;
use crate::admin::{self, Ask, ClientError};
use crate::config::{Config, Overrides};
use crate::kernel::{self, Remains};

/// The guard runs and every claim holds.
const PROTECTED: u8 = 0;
/// The guard runs, but some claim does not hold.
const UNPROVEN: u8 = 1;
/// No guard runs.
const NOT_RUNNING: u8 = 3;
/// Nobody knows: this user may not ask, guard.yaml cannot be read, or the guard gave no answer.
pub(super) const NOT_ASKED: u8 = 4;

/// Show what the running guard protects and whether each claim is proven
///
/// Exit code 0: protected, every claim holds. 1: a guard runs, but some claim does not hold. 3: no guard runs.
/// 4: the guard could not be asked (no permission, guard.yaml not readable, no answer), so nothing is known.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Try every claim anew, with real connections, before answering
    #[arg(long)]
    prove: bool,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let status = match admin::ask(&config.admin_socket(), &Ask::Status { prove: args.prove }) {
        Ok(status) => status,
        Err(error @ ClientError::NotRunning { .. }) => return Ok(not_running(&config, &error, args.json)),
        Err(error) => return Err(error.into()),
    };
    let protected = status.pointer("/kernel/protected").and_then(Value::as_bool).unwrap_or_default();
    if args.json {
        output::print(&status.to_string())?;
    } else {
        output::print(&show(&status, protected)?)?;
    }
    Ok(ExitCode::from(if protected { PROTECTED } else { UNPROVEN }))
}

/// The pins tell whether the ports are closed, guard or no guard.
fn not_running(config: &Config, error: &ClientError, json: bool) -> ExitCode {
    let pins = config.kernel.bpffs.join(&config.kernel.pins);
    let remains = kernel::remains(&config.kernel);
    // Who cannot find out must not be told "open".
    let closed = match remains {
        Remains::Here => Some(true),
        Remains::Nothing | Remains::Elsewhere => Some(false),
        Remains::Hidden | Remains::Unknown => None,
    };
    // Who may not look at them sees none.
    let blocks = kernel::blocks(&config.kernel).unwrap_or_default();
    if json {
        println!("{}", json!({ "running": false, "closed": closed, "pins": pins, "blocks": blocks }));
    } else {
        println!("{error}.");
        let pins = pins.display();
        match remains {
            Remains::Here => println!(
                "The ports are CLOSED: every connection to them is refused. However a guard ends, its programs stay in\n\
                 the kernel ({pins}) and see to that. `mcp-guard run` serves again; `mcp-guard unload` opens the ports."
            ),
            Remains::Nothing => println!(
                "The ports are OPEN and unprotected: nothing of the guard is in the kernel. `mcp-guard run` protects them."
            ),
            Remains::Elsewhere => println!(
                "The ports of this network namespace are OPEN and unprotected. The pins in {pins}\n\
                 keep ports of another one closed; run this there (`nsenter --net=/run/netns/NAME`)."
            ),
            Remains::Hidden => println!(
                "Whether the ports are closed cannot be told: this process sees no bpffs at {}.\n\
                 `ip netns exec` hides the host's; use `nsenter --net=/run/netns/NAME`.",
                config.kernel.bpffs.display()
            ),
            Remains::Unknown => println!(
                "Whether the ports are closed cannot be told: {pins} is not readable, or another version\n\
                 of the guard made it. Run this as root, with the version that protected the ports."
            ),
        }
        for block in blocks {
            let name = [block.kind, block.name.as_str()].join(" ");
            let since = super::block::time(block.since);
            println!(
                "BLOCKED   {} since {since}, also for the next guard: {}",
                name.trim_end(),
                block.reason
            );
        }
    }
    ExitCode::from(NOT_RUNNING)
}

fn show(status: &Value, protected: bool) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    let headline = if protected { "PROTECTED" } else { "NOT PROVEN" };
    let tried = text("/kernel/tried_seconds_ago");
    writeln!(out, "{headline}   mcp-guard {}, pid {}, tried {tried} s ago", text("/version"), text("/pid"))?;
    for block in array(status, "/kernel/blocks") {
        let name = [plain(&block["kind"]), plain(&block["name"])].join(" ");
        let since = super::block::time(block["since"].as_u64().unwrap_or_default());
        let line = format!("BLOCKED   {} since {since}: {}", name.trim_end(), plain(&block["reason"]));
        writeln!(out, "{}", output::red(line.trim_end_matches([':', ' '])))?;
    }
    for problem in array(status, "/kernel/wall/problems") {
        writeln!(out, "NO SECOND WALL   {}", plain(problem))?;
    }
    if text("/kernel/wall/mode") == "count" {
        writeln!(out, "WALL COUNTS ONLY   kernel.wall is count: what gets round the steering is let pass")?;
    }
    for path in array(status, "/unwatched") {
        writeln!(out, "NOT WATCHED   {}: there is no such cgroup now", plain(path))?;
    }
    out.push_str(&turned_away(status));
    out.push_str(&undecided(status));
    for other in array(status, "/kernel/other_ports") {
        let (server, port, done) = (plain(&other["server"]), &other["port"], plain(&other["done"]));
        writeln!(out, "OTHER PORT   {server} also listens on {port} (other_ports: {done})")?;
    }
    for problem in array(status, "/kernel/lock_problems") {
        writeln!(out, "LOCK-DOWN INCOMPLETE   {}", plain(problem))?;
    }
    for words in array(status, "/kernel/reduced") {
        writeln!(out, "REDUCED   {}", plain(words))?;
    }
    let protected_netns = status.pointer("/kernel/netns").and_then(Value::as_u64);
    if kernel::this_netns().is_some_and(|here| protected_netns != Some(here)) {
        writeln!(out, "NOT HERE   it protects ports of another network namespace, none of this one")?;
    }
    for words in array(status, "/kernel/failed") {
        writeln!(out, "NOT PROTECTED   {}", plain(words))?;
    }
    for server in array(status, "/servers") {
        if !doors(status, server).any(|(_, port)| !array(port, "/pinned").is_empty()) {
            writeln!(
                out,
                "SERVER DOWN   {}: no server is pinned behind port {}{}; start it",
                plain(&server["name"]),
                server["port"],
                place(server)
            )?;
        }
    }
    out.push_str(&of_others(status)?);
    for drift in array(status, "/kernel/drift") {
        writeln!(out, "CHANGED   in the kernel, not by the guard: {}", plain(drift))?;
    }
    out.push_str(&(unwritten(status) + &uncopied(status) + &of_files(status) + &in_shadow(status)));
    out.push_str(&reloads(status));
    let policy = text("/policy");
    writeln!(
        out,
        "policy {}, {} agents, audit {}, read {}",
        output::short(&policy),
        text("/agents"),
        text("/durability"),
        text("/reload/loaded_at")
    )?;
    writeln!(out, "CA {}\n", text("/ca"))?;

    let mut servers = output::table(["SERVER", "WHERE", "PORT", "ENDPOINT", "PINNED LISTENER"]);
    for server in array(status, "/servers") {
        let mut row = |place: String, listener: String| {
            let (name, port) = (plain(&server["name"]), server["port"].to_string());
            servers.add_row([name, place, port, plain(&server["path"]), listener]);
        };
        let mut found = doors(status, server).peekable();
        if found.peek().is_none() {
            row(place(server), "its place is not there; protected as soon as it is".into());
        }
        for (namespace, port) in found {
            row(plain(&namespace["place"]), listener(port));
        }
    }
    writeln!(out, "{servers}")?;

    out.push_str(&holders(status));
    out.push_str(&shadows(status));
    let mut claims = output::table(["CLAIM", "HOLDS", "SEEN"]);
    for claim in array(status, "/kernel/claims") {
        let holds = if claim["holds"] == true { "yes" } else { "NO" };
        claims.add_row([plain(&claim["name"]), holds.to_owned(), plain(&claim["detail"])]);
    }
    writeln!(out, "{claims}")?;

    let mut counters = output::table(["COUNTER", "CONNECTIONS"]);
    let counted = status.pointer("/kernel/counters").and_then(Value::as_object);
    for (name, count) in counted.into_iter().flatten().filter(|(_, count)| **count != 0) {
        counters.add_row([name.clone(), count.to_string()]);
    }
    writeln!(out, "{counters}")?;
    Ok(out.trim_end().to_owned())
}

/// Clients whose certificate ended their handshake.
fn turned_away(status: &Value) -> String {
    let refused = status["client_certificates_refused"].as_u64().filter(|refused| *refused > 0);
    refused.map_or_else(String::new, |refused| {
        format!("CLIENT CERTIFICATES REFUSED   {refused} since this guard began; the log has each with its cause\n")
    })
}

/// What waits for an operator.
fn undecided(status: &Value) -> String {
    let count = |name: &str| status[name].as_u64().filter(|count| *count > 0);
    let waiting = count("waiting").map_or(String::new(), |count| {
        format!("WAITING   {count} listener(s) closed until somebody decides: mcp-guard servers list\n")
    });
    let held = count("tools_held").map_or(String::new(), |count| {
        format!("TOOLS HELD   {count}, which nobody sees or calls: mcp-guard tools list\n")
    });
    waiting + &held
}

/// What is wrong with keys and credentials of others.
fn of_others(status: &Value) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for issuer in array(status, "/issuers").iter().filter(|one| !one["error"].is_null()) {
        let (name, source, error) =
            (plain(&issuer["name"]), plain(&issuer["source"]), plain(&issuer["error"]));
        if issuer["keys"] == 0 {
            writeln!(out, "NO KEYS   {name}: its tokens are refused; {source}: {error}")?;
        } else {
            writeln!(out, "OLD KEYS   {name}: they are {} s old; {source}: {error}", issuer["age_seconds"])?;
        }
    }
    for credential in array(status, "/credentials").iter().filter(|one| !one["problem"].is_null()) {
        writeln!(out, "NO CREDENTIAL   {}", credential_problem(credential))?;
    }
    Ok(out)
}

/// Why no call goes to a server.
fn credential_problem(credential: &Value) -> String {
    let problem = &credential["problem"];
    let hint = problem["hint"].as_str().map_or(String::new(), |hint| format!("; {hint}"));
    let (server, file, what) = (&credential["server"], &problem["file"], &problem["what"]);
    format!("{}: no call goes to it; {}: {}{hint}", plain(server), plain(file), plain(what))
}

/// A reload that failed, and changes that nobody would notice.
fn reloads(status: &Value) -> String {
    let mut lines = Vec::new();
    if let Some(at) = status.pointer("/reload/failed/at") {
        let since = status.pointer("/reload/loaded_at").map(plain).unwrap_or_default();
        let words = format!("NOT RELOADED   at {}; what was read at {since} stays in force:", plain(at));
        lines.push(output::red(&words));
        for problem in array(status, "/reload/failed/problems") {
            let place: Vec<String> = ["file", "line", "column"]
                .iter()
                .map(|key| &problem[*key])
                .filter(|at| !at.is_null())
                .map(plain)
                .collect();
            let hint = problem["hint"].as_str().map_or(String::new(), |hint| format!("; {hint}"));
            lines.push(format!("  {}: {}{hint}", place.join(":"), plain(&problem["what"])));
        }
    }
    if let Some(Value::String(why)) = status.pointer("/reload/not_watched") {
        lines.push(output::red(&format!("CHANGES UNSEEN   {why}")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Who has calls, streams or sessions; nothing if nobody has.
fn holders(status: &Value) -> String {
    let holders = array(status, "/holders");
    if holders.is_empty() {
        return String::new();
    }
    let mut table = output::table(["AGENT", "CALLS UNDER WAY", "OF THESE STREAMS", "SESSIONS"]);
    for holder in holders {
        let count = |name: &str| holder[name].to_string();
        table.add_row([plain(&holder["agent"]), count("calls"), count("streams"), count("sessions")]);
    }
    format!("{table}\n")
}

/// Why every call is refused, if the trail cannot be written.
fn unwritten(status: &Value) -> String {
    let cause = status.pointer("/audit/failed").and_then(Value::as_str);
    let line = |cause: &str| {
        format!("NO AUDIT TRAIL   it cannot be written, so every call is refused: {}", output::plain(cause))
    };
    cause.map(|cause| output::red(&line(cause)) + "\n").unwrap_or_default()
}

/// A copy that takes longer is told of.
const COPY_WAIT_SECONDS: u64 = 60;

/// Places that get no copies of the trail's checkpoint.
fn uncopied(status: &Value) -> String {
    let line = |copy: &Value| {
        let (kind, place) = (plain(&copy["kind"]), plain(&copy["place"]));
        let attempt = copy["attempt_seconds"].as_u64().unwrap_or_default();
        let why = match copy["error"].as_str() {
            Some(error) => output::plain(error),
            None if attempt >= COPY_WAIT_SECONDS => {
                format!("the latest has been under way for {attempt} s; the place may hang")
            }
            None => return String::new(),
        };
        format!("CHECKPOINT NOT COPIED   to {kind} {place}: {why}\n")
    };
    array(status, "/checkpoints").iter().map(line).collect()
}

/// What may become of the files of the trail.
fn of_files(status: &Value) -> String {
    let audit = &status["audit"];
    let room = |free: &Value| {
        format!(
            "LITTLE ROOM   {free} bytes are free for the audit trail; once there are none, calls are refused\n"
        )
    };
    let clock = |ahead: &Value| {
        let hours = ahead.as_u64().unwrap_or_default() / 3600;
        format!(
            "CLOCK AHEAD   by {hours} h of what has passed; audit.keep_days comes after it slowly. If it is right: mcp-guard audit prune\n"
        )
    };
    let export = |export: &Value| {
        let cursor = plain(&export["cursor"]);
        match export["problem"].as_str() {
            Some(problem) => format!("NOT EXPORTED   {cursor}: {}\n", output::plain(problem)),
            None => format!(
                "EXPORT   {cursor}: {} records behind, the oldest {} s old\n",
                export["records"], export["oldest_seconds"]
            ),
        }
    };
    let unsigned = audit["unsigned"].as_str().map(|why| {
        let why = output::plain(why);
        format!("NOT SIGNED   {} records are written and not signed: {why}\n", audit["unsigned_records"])
    });
    let losses = audit["losses_accepted"].as_u64().filter(|losses| *losses > 0);
    let losses = losses.map(|losses| {
        format!("RECORDS LOST   {losses} times an operator accepted that (`audit query --kind gap` has when and why)\n")
    });
    let told = |is: &str, line: String| if audit[is] == true { line } else { String::new() };
    let exports: String = array(audit, "/exports").iter().map(export).collect();
    let room = told("is_low", room(&audit["free_bytes"]));
    unsigned.unwrap_or_default()
        + &losses.unwrap_or_default()
        + &room
        + &told("is_clock_ahead", clock(&audit["clock_ahead_seconds"]))
        + &exports
}

/// Servers whose rules bind nobody.
fn in_shadow(status: &Value) -> String {
    let line =
        |server| format!("IN SHADOW   no rule refuses, holds or masks anything of {}\n", plain(server));
    array(status, "/shadow_servers").iter().map(line).collect()
}

/// What rules in shadow would have refused; nothing if that is nothing.
fn shadows(status: &Value) -> String {
    let shadows = array(status, "/shadows");
    if shadows.is_empty() {
        return String::new();
    }
    let mut table = output::table(["RULE IN SHADOW", "CALLS THAT IT WOULD HAVE REFUSED"]);
    for shadow in shadows {
        table.add_row([plain(&shadow["rule"]), shadow["would_deny"].to_string()]);
    }
    format!("{table}\n")
}

/// The namespaces in which a server's port is protected, each with what is known of the port.
fn doors<'a>(status: &'a Value, server: &'a Value) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let port = server["port"].to_string();
    array(status, "/kernel/namespaces")
        .iter()
        .filter(move |namespace| namespace["servers"][&port] == server["name"])
        .map(move |namespace| (namespace, &namespace["ports"][server["port"].to_string()]))
}

/// Where `guard.yaml` says that a server is.
fn place(server: &Value) -> String {
    match &server["in"] {
        Value::Object(place) => {
            let places: Vec<_> =
                place.iter().map(|(kind, which)| format!(" in {kind} {}", plain(which))).collect();
            places.concat()
        }
        _ => String::new(),
    }
}

/// Who holds the server's socket, in words; or who listens and is not taken for the server.
fn listener(port: &Value) -> String {
    let pinned: Vec<String> = array(port, "/pinned")
        .iter()
        .map(|pinned| {
            format!("{} pid {} ({})", plain(&pinned["address"]), pinned["pid"], plain(&pinned["comm"]))
        })
        .collect();
    if !pinned.is_empty() {
        return pinned.join(", ");
    }
    let others = array(port, "/unrecognised").iter().map(|words| format!("; not taken: {}", plain(words)));
    format!("none: calls are refused{}", others.collect::<String>())
}

pub(super) fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
