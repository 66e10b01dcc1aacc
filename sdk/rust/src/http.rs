//! One request and its answer: CGI (RFC 3875) below, nothing of it above.

use crate::raw;
use std::env;
use std::fmt::Display;
use std::io::{self, Read, Write};

/// The request being answered.  Its body is read as it comes: it is a [`Read`].
pub struct Request {
    stdin: io::Stdin,
}

impl Request {
    pub fn method(&self) -> String {
        variable("REQUEST_METHOD")
    }

    /// Behind the function's own: "" or what begins with '/', percent-decoded.
    pub fn path(&self) -> String {
        variable("PATH_INFO")
    }

    /// As it was sent, without the '?'.
    pub fn query(&self) -> String {
        variable("QUERY_STRING")
    }

    /// The first value of this name in the query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let query = self.query();
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .find(|(key, _)| decode(key) == name)
            .map(|(_, value)| decode(value))
    }

    /// A header field, by any case of its name.
    pub fn header(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_uppercase().replace('-', "_");
        match name.as_str() {
            "CONTENT_TYPE" | "CONTENT_LENGTH" => env::var(name).ok(),
            _ => env::var(format!("HTTP_{name}")).ok(),
        }
    }

    /// All of the body.
    pub fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// All of the body; an error of kind `InvalidData` when it is not UTF-8.
    pub fn text(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Read for Request {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stdin.lock().read(bytes)
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// Percent-encoded and '+' for a space, as forms have it; what is not UTF-8 is replaced.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = pair
            .filter(|hex| bytes[at] == b'%' && hex.bytes().all(|c| c.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(if bytes[at] == b'+' { b' ' } else { bytes[at] }));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

type Writer = Box<dyn FnOnce(&mut Output) -> io::Result<()>>;

enum Body {
    Bytes(Vec<u8>),
    Pieces(Writer),
}

/// What a handler answers.
pub struct Response {
    status: u16,
    fields: String,
    body: Body,
    problem: Option<String>,
}

impl Response {
    fn with(kind: &str, body: Vec<u8>) -> Response {
        let response = Response {
            status: 200,
            fields: String::new(),
            body: Body::Bytes(body),
            problem: None,
        };
        if kind.is_empty() {
            response
        } else {
            response.header("Content-Type", kind)
        }
    }

    /// This status, and no body.
    pub fn status_only(status: u16) -> Response {
        Response::with("", Vec::new()).status(status)
    }

    pub fn text(text: impl Into<String>) -> Response {
        Response::with("text/plain; charset=utf-8", text.into().into_bytes())
    }

    pub fn html(text: impl Into<String>) -> Response {
        Response::with("text/html; charset=utf-8", text.into().into_bytes())
    }

    /// A body that is JSON already.
    pub fn json(text: impl Into<String>) -> Response {
        Response::with("application/json", text.into().into_bytes())
    }

    pub fn bytes(content_type: &str, bytes: impl Into<Vec<u8>>) -> Response {
        Response::with(content_type, bytes.into())
    }

    /// A body that is written piece by piece, after status and fields have been sent.  `flush()` of
    /// its [`Output`] sends to the client what was written so far.
    pub fn stream(content_type: &str, write: impl FnOnce(&mut Output) -> io::Result<()> + 'static) -> Response {
        let mut response = Response::with(content_type, Vec::new());
        response.body = Body::Pieces(Box::new(write));
        response
    }

    /// 200 to 599.
    pub fn status(mut self, status: u16) -> Response {
        if !(200..=599).contains(&status) {
            self.problem = Some(format!("{status} is not a status from 200 to 599"));
        }
        self.status = status;
        self
    }

    /// One more header field.  What is none makes the answer a 500, and the log says why.
    pub fn header(mut self, name: &str, value: &str) -> Response {
        let is_token = !name.is_empty()
            && name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c));
        if !is_token || value.bytes().any(|c| (c < b' ' && c != b'\t') || c == 0x7f) {
            self.problem = Some(format!("{name:?}: {value:?} is not a header field"));
        } else {
            self.fields.push_str(&format!("{name}: {value}\r\n"));
        }
        self
    }

    fn send(self) -> io::Result<()> {
        let mut out = Output(io::stdout());
        write!(out, "Status: {}\r\n{}\r\n", self.status, self.fields)?;
        match self.body {
            Body::Bytes(bytes) => out.write_all(&bytes)?,
            Body::Pieces(write) => write(&mut out)?,
        }
        out.0.flush()
    }
}

/// Where a streamed body goes.
pub struct Output(io::Stdout);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        crate::error::check(unsafe { raw::flush() }).map(|_| ())
    }
}

/// What a handler may give back: a [`Response`], a text, bytes, nothing, or a `Result` of them.
pub trait IntoResponse {
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::bytes("application/octet-stream", self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::status_only(204)
    }
}

/// An error is a 500; what it says goes to the log and not to the client.
impl<T: IntoResponse, E: Display> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(answer) => answer.into_response(),
            Err(error) => failure(&error.to_string()),
        }
    }
}

fn failure(why: &str) -> Response {
    crate::log(crate::Level::Error, why, &[]);
    Response::text("the function failed; its log says why\n").status(500)
}

/// Answer the request.  The one call of a function's `main()`.
pub fn serve<A: IntoResponse>(handler: impl FnOnce(Request) -> A) {
    let response = handler(Request { stdin: io::stdin() }).into_response();
    let response = match &response.problem {
        Some(problem) => failure(problem),
        None => response,
    };
    if let Err(error) = response.send() {
        // The head is gone: only an end that is none tells the client that the body is not whole.
        crate::log(crate::Level::Error, &format!("the answer ended early: {error}"), &[]);
        std::process::exit(1);
    }
}
