//! The kernel side of the guard: where a connection to a protected port goes, and who made it.
//!
//! | program | attached to | says |
//! |---|---|---|
//! | `steer` | the network namespace | which socket takes a connection to a protected port |
//! | `who4`, `who6` | the cgroup2 root | which process connects |
//! | `tie` | the cgroup2 root | which flow that became, and who listens on a protected port |
//! | `mine` | the guard's cgroup | which flows are the guard's own |
//! | `wall` | the servers' cgroups | that no other packet reaches a protected port |
//! | `hold4`, `hold6`, `held4`, `held6` | the cgroup2 root | who may bind a protected port |
//! | `out4`, `out6`, `say4`, `say6`, `leave` | the cgroups of locked servers | where a server may connect |
#![no_std]
#![no_main]

mod address;
mod caller;
mod egress;
mod hold;
mod maps;
mod mine;
mod ops;
mod packet;
mod steer;
mod tie;
mod wall;
mod who;

// The helpers that we call are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
