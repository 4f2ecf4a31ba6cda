//! mcp-guard: everything that an agent sends to a protected MCP server passes through here, once.
//!
//! The modules below stand in the order of a call's way; each hands the next a value that only it can make:
//!
//! ```text
//! kernel    steers the port to us            → a connection
//! accept    who connected, to which server   → Accepted
//! tls       ends TLS, or says 426            → Secured
//! http      one bounded request              → Exchange
//! inspect   what an answer holds that is nobody's business
//! rpc       strict JSON-RPC and MCP reading  → Message
//! identity  which agent this is              → Caller
//! risk      how risky a call is               → Score
//! policy    may it                           → Decision
//! velocity  how often                        → Admission
//! session   whose session, task and stream it is
//! tools     is the tool what it was           → Held, or not
//! audit     durable intent record            → Permit
//! upstream  spends the Permit                → Reply
//! audit     closing record
//! respond   the one place where bytes for the client are made
//! ```
//!
//! [`pipeline`] is the only module that knows all of them. A stage imports [`types`], [`config`] and stages
//! before it, never one after it.
#![deny(unsafe_code)]

pub mod accept;
pub mod admin;
pub mod app;
pub mod attendance;
pub mod audit;
pub mod case;
pub mod cli;
pub mod config;
pub mod connection;
pub mod discover;
pub mod http;
pub mod identity;
pub mod inspect;
pub mod kernel;
pub mod outbound;
pub mod pipeline;
pub mod policy;
pub mod privilege;
pub mod refusal;
pub mod respond;
pub mod risk;
pub mod rpc;
pub mod rules;
pub mod service;
pub mod session;
pub mod telemetry;
pub mod tls;
pub mod tools;
pub mod types;
pub mod upstream;
pub mod velocity;
