//! Why a request is refused before any policy is asked.

use http::StatusCode;

use super::json::JsonErrorKind;
use super::{Id, IdError, METHOD_BYTES_MAX, TARGET_BYTES_MAX};
use crate::rpc::json::JsonError;

/// A refused frame, with the request's id if it could be read beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct FrameError {
    pub fault: Fault,
    pub id: Option<Id>,
}

impl From<Fault> for FrameError {
    fn from(fault: Fault) -> Self {
        Self { fault, id: None }
    }
}

/// What is wrong. The text is for the client: it names the fault and why the guard does not pass it on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a JSON-RPC batch (array) is refused; send one message per request")]
    Batch,
    #[error("a batch has 1 to {messages_max} messages (limits.batch_messages_max)")]
    BatchSize { messages_max: usize },
    #[error("the body has more than {bytes_max} bytes")]
    BodyTooLarge { bytes_max: usize },
    #[error(
        "`Connection: {0}` would make a server on the way drop that header; only close and keep-alive are taken"
    )]
    ConnectionToken(String),
    #[error(
        "Content-Encoding {0:?} is refused; send the body as it is, servers differ on whether they decode it"
    )]
    ContentEncoding(String),
    #[error("Content-Type must be application/json, with no charset other than utf-8")]
    ContentType,
    #[error("{place} has a control character")]
    ControlCharacter { place: &'static str },
    #[error("the id is refused: {0}")]
    Id(IdError),
    #[error("another request of this session waits with the same id; send this one with an id of its own")]
    IdInUse,
    #[error(
        "neither a request (method), a notification (method, no id) nor a response (id and result or error)"
    )]
    Incomplete,
    #[error("{0}")]
    Json(#[from] JsonError),
    #[error("`jsonrpc` must be the string \"2.0\"")]
    JsonRpcVersion,
    #[error(
        "a key in {place} is not printable ASCII; no MCP method has such a key, and parsers differ on it"
    )]
    KeyCharacters { place: &'static str },
    #[error("the header {0:?} would be taken for a different one by some servers; write it with '-'")]
    LookalikeHeader(String),
    #[error(
        "a key in {place} differs from a known one only in case or hidden characters; parsers differ on it"
    )]
    LookalikeKey { place: &'static str },
    #[error("this path takes what OAuth posts; a JSON-RPC message goes to the server's MCP endpoint")]
    MessageElsewhere,
    #[error("`method` must be a non-empty string")]
    Method,
    #[error("a message with `method` must not have `result` or `error`, and a response has just one of them")]
    Mixed,
    #[error("the form has a byte that forms write as %XX")]
    NotAForm,
    #[error("the body must be one JSON object")]
    NotAnObject,
    #[error("`params` must be an object")]
    Params,
    #[error("the progress token is refused: {0}")]
    ProgressToken(IdError),
    #[error("the header {0} stands more than once; servers differ on which one counts")]
    RepeatedHeader(String),
    #[error("`requestId` is refused: {0}")]
    RequestId(IdError),
    #[error(
        "{place} is too long (at most {METHOD_BYTES_MAX} bytes for a method, {TARGET_BYTES_MAX} for a name)"
    )]
    TooLong { place: &'static str },
    #[error("{max} requests of this session wait for answers; wait for some of them, or cancel them")]
    TooManyWaiting { max: usize },
    #[error(
        "a `subscriptions/listen` names at most {names_max} resources and tasks; subscribe to the others with another one"
    )]
    TooMuchListened { names_max: usize },
    #[error("the message has a member other than jsonrpc, id, method, params, result and error")]
    UnknownMember,
}

impl Fault {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentEncoding(_) | Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The JSON-RPC error code: −32700 for what is no JSON text, −32600 for JSON that is no message we take.
    pub fn code(&self) -> i32 {
        match self {
            Self::Json(JsonError {
                kind: JsonErrorKind::Syntax(_) | JsonErrorKind::NotUtf8 | JsonErrorKind::ByteOrderMark,
                ..
            }) => -32700,
            _ => -32600,
        }
    }

    /// The name of this fault in audit records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchSize { .. } => "batch_size",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::ConnectionToken(_) => "connection_token",
            Self::ContentEncoding(_) => "content_encoding",
            Self::ContentType => "content_type",
            Self::ControlCharacter { .. } => "control_character",
            Self::Id(_) => "bad_id",
            Self::IdInUse => "id_in_use",
            Self::Incomplete => "incomplete_message",
            Self::Json(fault) => fault.kind.reason(),
            Self::JsonRpcVersion => "jsonrpc_version",
            Self::KeyCharacters { .. } => "key_characters",
            Self::LookalikeHeader(_) => "lookalike_header",
            Self::LookalikeKey { .. } => "lookalike_key",
            Self::MessageElsewhere => "message_elsewhere",
            Self::Method => "bad_method",
            Self::Mixed => "mixed_message",
            Self::NotAForm => "not_a_form",
            Self::NotAnObject => "not_an_object",
            Self::Params => "params_not_object",
            Self::ProgressToken(_) => "bad_progress_token",
            Self::RepeatedHeader(_) => "repeated_header",
            Self::RequestId(_) => "bad_request_id",
            Self::TooLong { .. } => "text_too_long",
            Self::TooManyWaiting { .. } => "too_many_waiting",
            Self::TooMuchListened { .. } => "too_much_listened",
            Self::UnknownMember => "unknown_member",
        }
    }
}
