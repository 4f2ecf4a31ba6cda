//! The ways around the guard that `docs/threats.md` lists, each tried without a guard, where it works, and with one.

mod churn;
mod container;
mod field;
mod newcomers;
mod powers;
mod published;
mod sockets;
mod states;
