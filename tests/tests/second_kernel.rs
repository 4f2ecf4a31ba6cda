//! What `cargo xtask kernel` runs on other kernels holds on this one.

use std::process::Command;

use guard_tests::process::program;
use guard_tests::scene::apart;

#[test]
fn the_smoke_test_of_other_kernels_passes_on_this_one() {
    apart(|| {
        let output = Command::new(program("kernel-smoke").unwrap()).output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && words.ends_with("SMOKE PASSED\n"), "{words}");
        assert_eq!(words.matches("\nok ").count(), 13, "{words}");
        assert!(!words.contains("LESS "), "this kernel has all that the guard can use: {words}");
    });
}
