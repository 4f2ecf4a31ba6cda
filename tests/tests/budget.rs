//! How much work the kernel's verifier has with each program. A kernel limits it, and more instructions are more time
//! for each connection or packet.

use std::collections::BTreeMap;

use guard_tests::world::test;

/// Name and instructions that the verifier walked, on the kernel that these tests run on first (6.18). To accept a new
/// figure, write what the failure says.
const GOLDEN: &str = include_str!("../golden/verified.txt");
/// Growth that needs no thought, in percent. Another version of the compiler may need it.
const GROWTH_MAX: u64 = 10;

#[test]
fn each_program_stays_within_its_budget_and_none_is_without_one() {
    let golden: BTreeMap<&str, u64> = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').expect("a name and a number"))
        .map(|(name, count)| (name, count.parse().expect("a number")))
        .collect();
    test(|world| {
        let mut guard = world.guard();
        let status = guard.ask("status");
        let programs = status["programs"].as_array().expect("a list");
        let found: BTreeMap<&str, u64> = programs
            .iter()
            .map(|program| {
                (
                    program["name"].as_str().expect("a name"),
                    program["verified"].as_u64().expect("this kernel tells"),
                )
            })
            .collect();
        let lines: Vec<String> = found.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let written = lines.join("\n");
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            golden.keys().collect::<Vec<_>>(),
            "tests/golden/verified.txt should be:\n{written}"
        );
        for (name, count) in &found {
            let budget = golden[name] * (100 + GROWTH_MAX) / 100;
            assert!(*count <= budget, "{name}: {count} instructions, {} before:\n{written}", golden[name]);
        }
    });
}
