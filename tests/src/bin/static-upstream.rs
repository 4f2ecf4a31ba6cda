//! The cheapest server that can stand for an MCP server in the benchmark: it answers each POST with the same
//! `tools/call` result under the request's own id, and does nothing else. With the header `X-Stream-Ms` it answers with an
//! event stream that never ends: an event at once, and one after each of so many milliseconds, or no more if that is 0.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Parser;
use guard_tests::serve::announce;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

/// Static MCP-shaped server for the benchmark
#[derive(Parser)]
#[command(name = "static-upstream")]
struct Options {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3001")]
    listen: SocketAddr,
    /// Bytes of text in each result
    #[arg(long, default_value_t = 300)]
    text_bytes: usize,
    /// Worker threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads.max(1))
        .enable_all()
        .build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    announce(listener.local_addr()?)?;
    let text = "x".repeat(options.text_bytes);
    // The stateless era's result; clients of the session era ignore the extra member.
    let result = format!(
        r#","result":{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#
    );
    let result: &'static str = result.leak();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, result))),
            // Such as too many open files: let some close.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn connection(stream: TcpStream, result: &'static str) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, result));
    // An error here is a client that hung up.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, result: &'static str) -> Result<Response<Body>, Infallible> {
    if request.method() != Method::POST {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let stream = request.headers().get("x-stream-ms").and_then(|every| every.to_str().ok()?.parse().ok());
    let Ok(body) = request.into_body().collect().await else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let body = body.to_bytes();
    let Some(id) = request_id(&body) else {
        // A notification.
        return Ok(status(StatusCode::ACCEPTED));
    };
    if let Some(every) = stream {
        return Ok(events(Duration::from_millis(every)));
    }
    let mut reply = Vec::with_capacity(32 + id.len() + result.len());
    reply.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    reply.extend_from_slice(id);
    reply.extend_from_slice(result.as_bytes());
    let mut response = Response::new(Full::from(reply).boxed_unsync());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// Each event says when it was sent.
fn events(every: Duration) -> Response<Body> {
    let events = futures_util::stream::unfold(true, move |is_first| async move {
        if !is_first {
            if every.is_zero() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(every).await;
        }
        let sent = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":{sent}}}}}"#
        );
        Some((Ok(Frame::data(Bytes::from(format!("data: {message}\n\n")))), false))
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    let kind = header::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The token after the first `"id":`. Good enough for the load generator's requests, and no parser to pay for.
fn request_id(body: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = br#""id":"#;
    let start = body.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let rest = body.get(start..)?.trim_ascii_start();
    let end = if rest.first() == Some(&b'"') {
        2 + rest.get(1..)?.iter().position(|byte| *byte == b'"')?
    } else {
        rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\n'))?
    };
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_as_it_was_written() {
        assert_eq!(request_id(br#"{"jsonrpc":"2.0","id":17,"method":"x"}"#), Some(&b"17"[..]));
        assert_eq!(request_id(br#"{"id": "a b", "method":"x"}"#), Some(&br#""a b""#[..]));
        assert_eq!(request_id(br#"{"method":"x","id":3}"#), Some(&b"3"[..]));
        assert_eq!(request_id(br#"{"method":"notifications/x"}"#), None);
    }
}
