//! The kernel side of the guard: where a connection to a protected port goes, and who made it.
//!
//! | program | attached to | says |
//! |---|---|---|
//! | `steer` | the network namespace | which socket takes a connection to a protected port |
//! | `who4`, `who6` | the cgroup2 root | which process connects |
//! | `tie` | the cgroup2 root | which flow that became, and who listens on a protected port |
//! | `mine` | the guard's cgroup | which flows are the guard's own |
#![no_std]
#![no_main]

mod address;
mod caller;
mod maps;
mod mine;
mod ops;
mod steer;
mod tie;
mod who;

// The helpers that we call are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
