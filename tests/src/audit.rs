//! Calls for audit tests that need no real client.

use mcp_guard::audit::{CallRecord, Local, Target, Velocity};
use mcp_guard::types::DecisionId;

/// An ordinary allowed call.
pub fn call(id: DecisionId) -> CallRecord<'static> {
    CallRecord {
        id,
        conn: Some(12),
        server: "customer-operations",
        agent: Some("support-agent"),
        client: Some("support-agent"),
        profile: Some("production"),
        user: None,
        evidence: Some("secret"),
        credential: None,
        certificate: None,
        peer: Some(([127, 0, 0, 1], 40712).into()),
        original_dst: Some(([127, 0, 0, 1], 3001).into()),
        local: Local::Unknown,
        era: Some("2025-06-18"),
        session: Some("0d6f1c3e-52cf-4a4b-9f6f-2f6d0f1c9a11"),
        http_method: "POST",
        rpc_method: Some("tools/call"),
        rpc_id: Some("17"),
        target: Some(Target { kind: "tool", name: "get_customer" }),
        arguments: None,
        intent: Some("customer.read"),
        continues: None,
        cause: None,
        reason: "allowed",
        text: None,
        rule: Some("support may read customers"),
        velocity: Some(Velocity { rule: "customer reads", count: 3, max: 100 }),
        counted: None,
        would_deny: &[],
        risk: None,
        label: None,
        mark: None,
        trace: None,
        policy: Some("6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"),
        body_bytes: 142,
        guest: None,
    }
}
