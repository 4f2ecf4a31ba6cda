//! Fixture servers, clients and harnesses of the tests that run whole programs.

pub mod audit;
pub mod client;
pub mod conformance;
pub mod journal;
pub mod probe;
pub mod residue;
pub mod serve;
pub mod tls;
pub mod world;
