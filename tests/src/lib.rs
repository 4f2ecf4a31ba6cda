//! Fixture servers, clients and harnesses of the tests that run whole programs.

pub mod journal;
pub mod serve;
