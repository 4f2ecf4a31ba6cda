//! A small OAuth 2.1 authorization server for clients of SDKs: metadata (RFC 8414), registration (RFC 7591), codes with PKCE
//! (RFC 7636) and tokens for a resource (RFC 8707). Whoever asks consents at once.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::ca::TestCa;
use crate::idp::{Idp, claims};

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Whom its tokens name.
pub const SUBJECT: &str = "billing@corp";

/// It answers until the process ends.
pub struct AuthorizationServer {
    issuer: String,
    state: Arc<Mutex<State>>,
}

/// One request to `/authorize`: what the client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub scope: String,
    pub resource: String,
}

struct State {
    idp: Idp,
    /// The user allows the first scope that is asked for and no other, the next time.
    is_next_narrow: bool,
    wishes: Vec<Wish>,
    /// The path of each request.
    asked: Vec<String>,
    codes: HashMap<String, (Wish, String)>,
}

struct Asked {
    method: String,
    url: Url,
    body: String,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl AuthorizationServer {
    /// At a port of the calling thread's network, with a certificate of `ca`.
    pub fn start(address: SocketAddr, ca: &TestCa) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let issuer = format!("https://localhost:{}", listener.local_addr()?.port());
        let tls = Arc::new(crate::tls::server_config(&ca.certificate(), &ca.key())?);
        let state = Arc::new(Mutex::new(State {
            idp: Idp::new("key-1")?,
            is_next_narrow: false,
            wishes: Vec::new(),
            asked: Vec::new(),
            codes: HashMap::new(),
        }));
        let (states, name) = (Arc::clone(&state), issuer.clone());
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (tls, state, issuer) = (Arc::clone(&tls), Arc::clone(&states), name.clone());
                thread::spawn(move || {
                    let Ok(connection) = ServerConnection::new(tls) else { return };
                    let mut stream = StreamOwned::new(connection, tcp);
                    // Whoever asked may be gone.
                    let _ = serve(&mut stream, &issuer, &state);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Ok(Self { issuer, state })
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn jwks_url(&self) -> String {
        format!("{}/jwks.json", self.issuer)
    }

    /// The next time, the user allows the first scope that is asked for and no other.
    pub fn narrow_next_token(&self) {
        lock(&self.state).is_next_narrow = true;
    }

    /// What clients asked users for, in order.
    pub fn wishes(&self) -> Vec<Wish> {
        lock(&self.state).wishes.clone()
    }

    /// The paths that were asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state).asked.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &mut (impl Read + Write), issuer: &str, state: &Mutex<State>) -> anyhow::Result<()> {
    let asked = read(stream, issuer)?;
    let answer = answer(&asked, issuer, &mut lock(state))?;
    let Answer { status, head, body } = answer;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Told\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

/// One request with its body, if that has a length.
fn read(stream: &mut impl Read, issuer: &str) -> anyhow::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (method, url) = (method.to_owned(), Url::parse(issuer)?.join(path)?);
    let mut length = 0;
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match field.trim_end().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse()?;
            }
            Some(_) => {}
        }
    }
    anyhow::ensure!(length <= BODY_BYTES_MAX, "a body of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Asked { method, url, body: String::from_utf8(body)? })
}

fn answer(asked: &Asked, issuer: &str, state: &mut State) -> anyhow::Result<Answer> {
    state.asked.push(asked.url.path().to_owned());
    let answer = match (asked.method.as_str(), asked.url.path()) {
        ("GET", "/.well-known/oauth-authorization-server") => json_of(200, &metadata(issuer)),
        ("GET", "/jwks.json") => json_of(200, &json!({"keys": [state.idp.jwk()]})),
        ("POST", "/register") => {
            let mut client: Value = serde_json::from_str(&asked.body)?;
            client["client_id"] = json!("client-1");
            client["token_endpoint_auth_method"] = json!("none");
            json_of(201, &client)
        }
        ("GET", "/authorize") => authorize(&asked.url, issuer, state)?,
        ("POST", "/token") => token(&asked.body, issuer, state)?,
        _ => json_of(404, &json!({"error": "not_found"})),
    };
    Ok(answer)
}

fn metadata(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "registration_endpoint": format!("{issuer}/register"),
        "jwks_uri": format!("{issuer}/jwks.json"),
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": true,
    })
}

fn authorize(url: &Url, issuer: &str, state: &mut State) -> anyhow::Result<Answer> {
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let of = |name: &str| query.get(name).cloned().unwrap_or_default();
    anyhow::ensure!(of("code_challenge_method") == "S256" && of("response_type") == "code", "{url}");
    let wish = Wish { scope: of("scope"), resource: of("resource") };
    state.wishes.push(wish.clone());
    let code = format!("code-{}", state.wishes.len());
    state.codes.insert(code.clone(), (wish, of("code_challenge")));
    let mut to = Url::parse(&of("redirect_uri"))?;
    to.query_pairs_mut().extend_pairs([("code", &*code), ("state", &*of("state")), ("iss", issuer)]);
    Ok(Answer { status: 302, head: format!("Location: {to}\r\n"), body: String::new() })
}

fn token(body: &str, issuer: &str, state: &mut State) -> anyhow::Result<Answer> {
    let form = Url::parse(&format!("{issuer}/?{body}"))?;
    let form: HashMap<_, _> = form.query_pairs().into_owned().collect();
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let Some((wish, challenge)) = state.codes.remove(of("code")) else {
        return Ok(json_of(400, &json!({"error": "invalid_grant"})));
    };
    let is_proved = challenge_of(of("code_verifier"))? == challenge;
    if !is_proved || of("resource") != wish.resource {
        return Ok(json_of(400, &json!({"error": "invalid_grant"})));
    }
    let mut scopes: Vec<_> = wish.scope.split(' ').filter(|scope| !scope.is_empty()).collect();
    if mem::take(&mut state.is_next_narrow) {
        scopes.truncate(1);
    }
    let scope = scopes.join(" ");
    let mut claims = claims(SUBJECT, 600);
    (claims["iss"], claims["aud"], claims["scope"]) = (json!(issuer), json!(wish.resource), json!(scope));
    let access = state.idp.sign(&claims)?;
    let answer = json!({"access_token": access, "token_type": "Bearer", "expires_in": 600, "scope": scope});
    Ok(json_of(200, &answer))
}

/// PKCE's S256, by the hash of a TLS suite.
fn challenge_of(verifier: &str) -> anyhow::Result<String> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().context("it is a suite of TLS 1.3")?;
    Ok(URL_SAFE_NO_PAD.encode(suite.common.hash_provider.hash(verifier.as_bytes())))
}

fn json_of(status: u16, body: &Value) -> Answer {
    let head = "Content-Type: application/json\r\nCache-Control: no-store\r\n".to_owned();
    Answer { status, head, body: body.to_string() }
}
