//! Why a connection's framing is refused.

use std::error::Error;
use std::io;

use http::StatusCode;

/// The text is for the client; the connection ends after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("a carriage return stands alone in a line")]
    BareCarriageReturn,
    #[error("a line ends with LF instead of CR LF")]
    BareLineFeed,
    #[error("a chunk is not followed by CR LF")]
    ChunkEnd,
    #[error("chunk extensions are refused")]
    ChunkExtension,
    #[error("a chunk size is not one to eight hex digits without leading zeros")]
    ChunkSize,
    #[error("Content-Length is not a plain decimal number")]
    ContentLength,
    #[error("Content-Length stands more than once")]
    ContentLengthRepeated,
    #[error("a control character stands in the request line or in a header")]
    ControlCharacter,
    #[error("more than one empty line before a request")]
    EmptyLines,
    #[error("a header is folded over two lines")]
    FoldedLine,
    #[error("the request line and headers took too long (limits.header_seconds)")]
    HeadSlow,
    #[error("the request line and headers are too large")]
    HeadTooLarge,
    #[error("a header has no valid name followed by ':'")]
    HeaderName,
    #[error("Host must stand exactly once, and be the same as :authority")]
    Host,
    #[error("the request line is not 'METHOD /path HTTP/1.1' with single spaces")]
    RequestLine,
    #[error("the request target must be a path beginning with '/'")]
    Target,
    #[error("trailers after a chunked body are refused")]
    Trailer,
    #[error("Transfer-Encoding must be 'chunked', once")]
    TransferEncoding,
    #[error("both Content-Length and Transfer-Encoding are given")]
    TwoLengths,
    #[error("only HTTP/1.1 (or HTTP/2 by ALPN) is served")]
    Version,
}

impl FramingError {
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadSlow => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The name of this fault in audit records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BareCarriageReturn => "bare_carriage_return",
            Self::BareLineFeed => "bare_line_feed",
            Self::ChunkEnd => "chunk_end",
            Self::ChunkExtension => "chunk_extension",
            Self::ChunkSize => "chunk_size",
            Self::ContentLength => "content_length",
            Self::ContentLengthRepeated => "content_length_repeated",
            Self::ControlCharacter => "head_control_character",
            Self::EmptyLines => "empty_lines",
            Self::FoldedLine => "folded_line",
            Self::HeadSlow => "head_slow",
            Self::HeadTooLarge => "head_too_large",
            Self::HeaderName => "header_name",
            Self::Host => "host",
            Self::RequestLine => "request_line",
            Self::Target => "request_target",
            Self::Trailer => "trailer",
            Self::TransferEncoding => "transfer_encoding",
            Self::TwoLengths => "two_lengths",
            Self::Version => "http_version",
        }
    }

    /// Finds the framing fault under an error of the HTTP library.
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(fault) = inner.and_then(|inner| inner.downcast_ref::<Self>()) {
                return Some(*fault);
            }
            next = error.source();
        }
        None
    }
}

impl From<FramingError> for io::Error {
    fn from(fault: FramingError) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}
