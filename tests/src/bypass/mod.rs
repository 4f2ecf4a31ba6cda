//! Attacks on a protected port, and where they come from.
//!
//! Each attack is a subcommand of the program `attacker`, which says what it met. A test runs it without a guard, where it
//! must reach the server, and with one, where it must not.

pub mod attacker;
pub mod bpf;
pub mod connect;
pub mod crafted;
pub mod jail;
pub mod leave;
pub mod published;
pub mod repair;
pub mod theft;
pub mod wire;

use std::process::Command;

use nix::libc;
use serde_json::{Value, json};

pub use attacker::Attacker;
pub use jail::Jail;

/// Runs the attack and says whether it got to the server. Prints what each row of the catalogue met, so that the output of
/// the tests is the catalogue's result.
pub fn met(row: &str, from: &Attacker, attack: &[&str]) -> Value {
    let met = from.run(attack);
    println!("{row}: {} from {}: {met}", attack.join(" "), from.name);
    met
}

/// The attack must reach the server: else it would prove nothing that it does not reach it through the guard.
pub fn assert_reaches(row: &str, from: &Attacker, attack: &[&str]) {
    let met = met(row, from, attack);
    assert_eq!(
        met["server"], true,
        "{row}: without a guard, {attack:?} from {} is no attack: {met}",
        from.name
    );
}

/// The guard's own answer, or none at all.
pub fn assert_guarded(row: &str, from: &Attacker, attack: &[&str]) -> Value {
    let met = met(row, from, attack);
    assert_eq!(met["guard"], true, "{row}: {attack:?} from {}: {met}", from.name);
    assert_eq!(met["server"], "demo", "{row}: {attack:?} from {}: {met}", from.name);
    met
}

/// Neither the server nor the guard: the kernel refuses, drops or resets.
pub fn assert_stopped(row: &str, from: &Attacker, attack: &[&str]) -> Value {
    let met = met(row, from, attack);
    assert!(
        met["server"] != true && met["guard"] != true,
        "{row}: {attack:?} from {} got through: {met}",
        from.name
    );
    met
}

/// Runs a program of this host for an attacker, such as `nft`. Its words are the error.
pub fn tool(program: &str, arguments: &[&str]) -> Value {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => json!({"done": true}),
        Ok(output) => json!({"error": String::from_utf8_lossy(&output.stderr)}),
        Err(error) => json!({"error": format!("{program} does not run: {error}")}),
    }
}

/// The result of a system call that returns -1 on errors.
pub(crate) fn checked(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

/// Says that an attack is ready, and obeys one command a line until its input ends.
pub(crate) fn attacker_loop(ready: &Value, mut obey: impl FnMut(&[&str]) -> Value) -> anyhow::Result<()> {
    println!("{ready}");
    for line in std::io::stdin().lines() {
        let line = line?;
        println!("{}", obey(&line.split(' ').collect::<Vec<_>>()));
    }
    Ok(())
}
