//! Each word of docs/refusals.md is tried before every client, or it is said here why not.

use std::collections::{BTreeMap, BTreeSet};

use super::Matrix;

const PAGE: &str = include_str!("../../../docs/refusals.md");

/// By the rows of the matrix. Its trail has them.
pub(super) const TRIED: &[&str] = &[
    "access_withdrawn",
    "bad_session_id",
    "blocked",
    "cancelled_without_session",
    "condition_failed",
    "default_deny",
    "denied_by_rule",
    "header_mismatch",
    "http_method",
    "json_duplicate_key",
    "needs_approval",
    "no_intent",
    "profile_denies",
    "result_refused",
    "server_broke_off",
    "server_unreachable",
    "session_over",
    "too_many_calls",
    "tool_changed",
    "tool_not_approved",
    "tool_not_pinned",
    "unknown_credential",
    "unknown_event",
    "unknown_path",
    "unknown_session",
    "unknown_state",
    "unknown_task",
    "velocity_exceeded",
];

/// With flow rules.
pub(super) const TRIED_WITH_MARKS: &[&str] = &["flow", "mark_unavailable"];

/// On a full disk, where there is no record of it: its rows have its words.
const TRIED_UNRECORDED: &[&str] = &["audit_unavailable"];

/// No row, and why.
const NOT_TRIED: &[(&str, &[&str])] = &[
    (
        "as `unknown_credential`: made by the same stage, and nobody has a next call; tests/tests/identity.rs, token.rs, certificate.rs",
        &[
            "certificate_expired",
            "certificate_malformed",
            "certificate_untrusted",
            "expired_credential",
            "malformed_credential",
            "missing_header",
            "no_certificate",
            "no_credential",
            "secret_not_needed",
            "several_agents",
            "token_algorithm",
            "token_audience",
            "token_expired",
            "token_issuer",
            "token_keys_unavailable",
            "token_malformed",
            "token_no_profile",
            "token_no_user",
            "token_not_yet",
            "token_signature",
            "token_unknown_key",
            "unknown_agent",
            "unknown_certificate",
            "unknown_process",
            "unknown_subject",
            "web_page",
            "wrong_certificate",
            "wrong_client_or_profile",
            "wrong_process",
        ],
    ),
    (
        "clients answer it by asking for another token; tests/tests/resource_server.rs",
        &["insufficient_scope"],
    ),
    ("who has no grant on a server opens no session there", &["server_not_granted"]),
    ("no library answers a server that it has no session with", &["response_without_session"]),
    (
        "no library writes such a message; `malformed frame` is one of the kind; guard-user/src/rpc",
        &[
            "bad_id",
            "bad_method",
            "bad_progress_token",
            "bad_request_id",
            "batch",
            "batch_size",
            "control_character",
            "id_in_use",
            "incomplete_message",
            "json_byte_order_mark",
            "json_not_utf8",
            "json_syntax",
            "json_too_deep",
            "json_too_many_values",
            "jsonrpc_version",
            "key_characters",
            "lookalike_key",
            "message_elsewhere",
            "mixed_message",
            "not_a_form",
            "not_an_object",
            "params_not_object",
            "text_too_long",
            "too_many_waiting",
            "too_much_listened",
            "unknown_member",
        ],
    ),
    (
        "no library writes such HTTP; `http method` and `unknown path` are of the kind; tests/tests/request_limits.rs, hostile.rs",
        &[
            "bare_carriage_return",
            "bare_line_feed",
            "body_broken",
            "body_slow",
            "body_too_large",
            "chunk_end",
            "chunk_extension",
            "chunk_size",
            "connection_token",
            "content_encoding",
            "content_length",
            "content_length_repeated",
            "content_type",
            "empty_lines",
            "folded_line",
            "head_control_character",
            "head_slow",
            "head_too_large",
            "header_name",
            "host",
            "http_version",
            "lookalike_header",
            "plaintext",
            "repeated_header",
            "request_line",
            "request_target",
            "trailer",
            "transfer_encoding",
            "two_lengths",
        ],
    ),
    ("all memory would be taken; tests/tests/request_limits.rs", &["busy"]),
    (
        "as `server_broke_off`: answered in the same form; tests/tests/upstream_limits.rs, credential.rs, streams.rs",
        &["bad_answer", "bad_target", "server_silent", "upstream_credential"],
    ),
];

/// The first cell of each row that has a code and a status.
fn words() -> BTreeSet<&'static str> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() >= 6);
    rows.filter_map(|line| line.split('`').nth(1)).collect()
}

#[test]
fn each_reason_has_a_row_or_a_word_about_why_not() {
    let tried = [TRIED, TRIED_WITH_MARKS, TRIED_UNRECORDED].into_iter().flatten();
    let all = tried.chain(NOT_TRIED.iter().flat_map(|(_, words)| *words));
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for word in all {
        *times.entry(word).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let listed: BTreeSet<&str> = times.into_keys().collect();
    let known = words();
    assert!(known.len() > 100, "the page was read: {known:?}");
    let missing: Vec<_> = known.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&known).collect();
    assert!(missing.is_empty() && gone.is_empty(), "without a row: {missing:?}; without a meaning: {gone:?}");
}

/// The rows were refused for what they say.
pub(super) fn all_recorded(matrix: &Matrix, expected: &[&str]) {
    let ledger = matrix.daemon.ledger().unwrap();
    let told = ledger.records.iter().filter(|record| record["decision"] != "allow");
    let seen: BTreeSet<&str> = told.filter_map(|record| record["reason"].as_str()).collect();
    let missing: Vec<_> = expected.iter().filter(|word| !seen.contains(**word)).collect();
    assert!(missing.is_empty(), "no record says {missing:?}, but {seen:?}");
}
