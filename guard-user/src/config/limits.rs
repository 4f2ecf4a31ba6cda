//! Every bound on what a peer can make the guard hold or wait for. Units stand last in the names.

use serde::{Deserialize, Serialize};

/// Bounds on connections, requests and replies. Each can be set under `limits:` in `guard.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open client connections; one more is closed at once.
    pub connections_max: usize,
    /// Of these, open at the same time for one peer: a user of this host, an IPv4 address, or an IPv6 network of 64 bits.
    pub connections_per_peer_max: usize,
    /// Calls between their intent record and their closing record; one more is refused.
    pub calls_in_flight_max: usize,
    /// Of these, calls of one agent, open streams among them.
    pub calls_in_flight_per_agent_max: usize,
    /// From the connection's first byte to the end of the TLS handshake.
    pub tls_handshake_seconds: u64,
    /// From a request's first byte to the end of its head; for a connection's first request, from the beginning.
    pub header_seconds: u64,
    /// A request's head.
    pub header_bytes_max: usize,
    /// Header fields of one request.
    pub headers_max: usize,
    /// From the end of the head to the end of the body.
    pub body_seconds: u64,
    /// A request's body.
    pub body_bytes_max: usize,
    /// Heads and bodies of all requests under way, over all connections; what goes beyond is refused. Requests without
    /// a known credential have an eighth of this on top for themselves.
    pub requests_bytes_max: usize,
    /// Of these, those of one agent's requests.
    pub requests_bytes_per_agent_max: usize,
    /// An HTTP connection without a request under way, once it had one.
    pub idle_seconds: u64,
    /// A client that takes no byte of what is being sent to it, or does not answer its host's keep-alive.
    pub stall_seconds: u64,
    /// Concurrent HTTP/2 streams of one connection.
    pub h2_streams_max: u32,
    /// Connecting to the protected server.
    pub upstream_connect_seconds: u64,
    /// From the forwarded request to the head of the server's answer, and from there to the end of one that is no event stream.
    pub upstream_head_seconds: u64,
    /// Idle connections kept to one server.
    pub upstream_idle_connections_max: usize,
    /// How long such a connection is kept.
    pub upstream_idle_seconds: u64,
    /// A list answer (such as that of `tools/list`) that the guard must hold to filter it.
    pub list_bytes_max: usize,
    /// How long a client may take a list, a resource or what a server offers for fresh (`ttlMs`): a server's longer time is
    /// cut to this, so that a new policy is seen soon.
    pub list_ttl_milliseconds_max: u64,
    /// Tools of one server whose definitions are kept; those beyond are held.
    pub tools_per_server_max: usize,
    /// One tool's definition; a longer one is held.
    pub tool_definition_bytes_max: usize,
    /// All definitions that are kept of one server's tools: pinned ones, and those offered in their place.
    pub tool_pins_bytes_max: usize,
    /// One server-sent event that the guard must hold to read it.
    pub event_bytes_max: usize,
    /// From the first byte of such an event to its end, as far as the guard waits for its server.
    pub event_seconds: u64,
    /// All answers under way, over all connections, as far as the guard holds them; what goes beyond is refused.
    pub answers_bytes_max: usize,
    /// Of these, those of one server's answers.
    pub answers_bytes_per_server_max: usize,
    /// JSON nesting of a request body.
    pub json_depth_max: usize,
    /// Messages of one batch, where a server's entry lets them through.
    pub batch_messages_max: usize,
    /// How long a call waits for its intent record to be on disk before it is refused.
    pub audit_wait_milliseconds: u64,
    /// A local client's executable whose SHA-256 an agent's entry asks for; a larger one is not read and does not match.
    pub executable_bytes_max: u64,
    /// Network namespaces of one container or unit that are protected for one server; those in which somebody listens on its
    /// port come first.
    pub server_namespaces_max: usize,
    /// A session without a request under way; then it is closed at its server. An open stream is a request under way.
    pub session_idle_seconds: u64,
    /// How long what an agent has read is remembered after its last request.
    pub context_idle_seconds: u64,
    /// Contexts of one agent; those beyond share one.
    pub contexts_per_agent_max: usize,
    /// A session, from its beginning; also how long a task is remembered.
    pub session_seconds_max: u64,
    /// Sessions of one agent at one server; one more, and the one that was not used for longest is closed.
    pub sessions_per_agent_max: usize,
    /// Tasks of one agent; one more, and the oldest is forgotten.
    pub tasks_per_agent_max: usize,
    /// Event ids of a session from which its client may resume a stream: the last ones that went to it. With one more, the stream
    /// with the most of them loses its oldest.
    pub resumable_events_max: usize,
    /// Requests of one server that the guard refuses in its clients' place, with a record each; what goes beyond is dropped.
    pub server_refusals_per_second_max: u64,
    /// Calls of one agent whose stream ended before their answer, and that their client may still get it for; one more, and
    /// the one whose stream ended first is given up.
    pub resumable_calls_per_agent_max: usize,
    /// How long such a call waits for its client to resume the stream.
    pub resume_seconds: u64,
    /// Keys that velocity rules count apart: each takes about 160 bytes, and at most 4 KiB more. A call that needs one more is
    /// refused.
    pub velocity_keys_max: usize,
    /// Those that came by one agent's calls.
    pub velocity_keys_per_agent_max: usize,
    /// Of these, so many have room whatever other agents do; they do not count as any of `velocity_keys_max`.
    pub velocity_keys_per_agent_kept: usize,
    /// How long the policy directory must be quiet after a change before it is read again (`reload: on_change`).
    pub reload_quiet_milliseconds: u64,
    /// From SIGTERM to the end of calls still under way.
    pub drain_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_peer_max: 1024,
            calls_in_flight_max: 4096,
            calls_in_flight_per_agent_max: 2048,
            tls_handshake_seconds: 10,
            header_seconds: 10,
            header_bytes_max: 32 * 1024,
            headers_max: 64,
            body_seconds: 30,
            body_bytes_max: 4 * 1024 * 1024,
            requests_bytes_max: 256 * 1024 * 1024,
            requests_bytes_per_agent_max: 64 * 1024 * 1024,
            idle_seconds: 300,
            stall_seconds: 60,
            h2_streams_max: 100,
            upstream_connect_seconds: 5,
            upstream_head_seconds: 600,
            upstream_idle_connections_max: 64,
            upstream_idle_seconds: 60,
            list_bytes_max: 8 * 1024 * 1024,
            list_ttl_milliseconds_max: 300_000,
            tools_per_server_max: 1024,
            tool_definition_bytes_max: 256 * 1024,
            tool_pins_bytes_max: 16 * 1024 * 1024,
            event_bytes_max: 16 * 1024 * 1024,
            event_seconds: 60,
            answers_bytes_max: 256 * 1024 * 1024,
            answers_bytes_per_server_max: 128 * 1024 * 1024,
            json_depth_max: 64,
            batch_messages_max: 100,
            audit_wait_milliseconds: 2000,
            executable_bytes_max: 1024 * 1024 * 1024,
            server_namespaces_max: 16,
            session_idle_seconds: 24 * 60 * 60,
            context_idle_seconds: 60 * 60,
            contexts_per_agent_max: 256,
            session_seconds_max: 7 * 24 * 60 * 60,
            sessions_per_agent_max: 1024,
            tasks_per_agent_max: 4096,
            resumable_events_max: 1024,
            server_refusals_per_second_max: 20,
            resumable_calls_per_agent_max: 256,
            resume_seconds: 300,
            velocity_keys_max: 1024 * 1024,
            velocity_keys_per_agent_max: 256 * 1024,
            velocity_keys_per_agent_kept: 1024,
            reload_quiet_milliseconds: 300,
            drain_seconds: 10,
        }
    }
}
