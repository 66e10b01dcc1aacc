//! What functions on Blixard may ask their host: keys and values, messages, other functions, spans.
//!
//! Only while a request is answered, not during initialisation.  Errors are `std::io::Error` with
//! the node's sentence; [`errno`] is their number.  See docs/user-guide/host-api.md.

use std::fmt;
use std::io;
use std::time::Duration;

mod raw {
    #[link(wasm_import_module = "blixard_v1")]
    extern "C" {
        pub fn log(level: u32, text: *const u8, length: usize, fields: *const u8, fields_length: usize) -> i32;
        pub fn kv_get(key: *const u8, key_length: usize, value: *mut u8, size: usize, revision: *mut u64) -> i32;
        pub fn kv_set(key: *const u8, key_length: usize, value: *const u8, length: usize, ttl_ms: u64, revision: *mut u64) -> i32;
        pub fn kv_cas(key: *const u8, key_length: usize, value: *const u8, length: usize, ttl_ms: u64, expected: u64, revision: *mut u64) -> i32;
        pub fn kv_delete(key: *const u8, key_length: usize, expected: u64) -> i32;
        pub fn kv_list(prefix: *const u8, prefix_length: usize, after: *const u8, after_length: usize, max: u32, list: *mut u8, size: usize) -> i32;
        pub fn queue_send(queue: *const u8, queue_length: usize, body: *const u8, length: usize, kind: *const u8, kind_length: usize, attributes: *const u8, attributes_length: usize, group: *const u8, group_length: usize, delay_ms: u64, priority: u32, id: *mut u8, size: usize) -> i32;
        pub fn stream_append(stream: *const u8, stream_length: usize, key: *const u8, key_length: usize, body: *const u8, length: usize, kind: *const u8, kind_length: usize, attributes: *const u8, attributes_length: usize, sequence: *mut u64) -> i32;
        pub fn invoke(name: *const u8, name_length: usize, method: *const u8, method_length: usize, path: *const u8, path_length: usize, fields: *const u8, fields_length: usize, body: *const u8, length: usize, timeout_ms: u32, buffer: *mut u8, size: usize) -> i32;
        pub fn deadline_ms() -> u64;
        pub fn metadata(which: u32, text: *mut u8, size: usize) -> i32;
        pub fn span_begin(name: *const u8, length: usize) -> i32;
        pub fn span_attribute(span: i32, name: *const u8, name_length: usize, value: *const u8, length: usize) -> i32;
        pub fn span_end(span: i32, failure: *const u8, length: usize) -> i32;
        pub fn flush() -> i32;
        pub fn reply_read(from: u32, bytes: *mut u8, size: usize) -> i32;
        pub fn error_message(text: *mut u8, size: usize) -> i32;
    }
}

#[derive(Debug)]
struct Refusal {
    errno: i32,
    text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// The number of an error from here, as WASI has it; 0 for any other.
pub fn errno(error: &io::Error) -> i32 {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>()).map_or(0, |refusal| refusal.errno)
}

fn check(result: i32) -> io::Result<usize> {
    if result >= 0 {
        return Ok(result as usize);
    }
    let mut text = vec![0u8; 512];
    let length = unsafe { raw::error_message(text.as_mut_ptr(), text.len()) };
    text.truncate(length.max(0) as usize);
    let kind = match -result {
        2 => io::ErrorKind::PermissionDenied,
        6 => io::ErrorKind::WouldBlock,
        20 => io::ErrorKind::AlreadyExists,
        28 => io::ErrorKind::InvalidInput,
        44 => io::ErrorKind::NotFound,
        52 | 58 => io::ErrorKind::Unsupported,
        73 => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    Err(io::Error::new(kind, Refusal { errno: -result, text }))
}

/// Ask with a buffer, and read on what did not fit.
fn collect(ask: impl FnOnce(*mut u8, usize) -> i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; 4096];
    let length = check(ask(bytes.as_mut_ptr(), bytes.len()))?;
    let there = length.min(bytes.len());
    bytes.resize(length, 0);
    if length > there {
        unsafe { raw::reply_read(there as u32, bytes[there..].as_mut_ptr(), length - there) };
    }
    Ok(bytes)
}

fn milliseconds(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| (time.as_millis() as u64).max(1))
}

/// Levels of the log, as in sd-daemon(3).
#[derive(Clone, Copy)]
pub enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

/// One line of the function's log, with fields.
pub fn log(level: Level, text: &str, fields: &[(&str, &str)]) {
    let mut all = Vec::new();
    for (name, value) in fields {
        all.extend_from_slice(name.as_bytes());
        all.push(0);
        all.extend_from_slice(value.as_bytes());
        all.push(0);
    }
    unsafe { raw::log(level as u32, text.as_ptr(), text.len(), all.as_ptr(), all.len()) };
}

/// How long until this request must be answered.
pub fn deadline() -> Duration {
    Duration::from_millis(unsafe { raw::deadline_ms() })
}

/// What was written to standard output goes to the client now; flush `io::stdout()` before.
pub fn flush() -> io::Result<()> {
    check(unsafe { raw::flush() }).map(|_| ())
}

/// Facts of the request, known from the node's side.
#[derive(Clone, Copy)]
pub enum Fact {
    Project,
    Function,
    Version,
    RequestId,
    Traceparent,
}

pub fn metadata(fact: Fact) -> io::Result<String> {
    let text = collect(|at, size| unsafe { raw::metadata(fact as u32, at, size) })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Keys and values of the project.
pub mod kv {
    use super::*;

    pub struct Found {
        pub value: Vec<u8>,
        pub revision: u64,
    }

    pub fn get(key: &str) -> io::Result<Found> {
        let mut revision = 0;
        let value = collect(|at, size| unsafe { raw::kv_get(key.as_ptr(), key.len(), at, size, &mut revision) })?;
        Ok(Found { value, revision })
    }

    /// The new revision.
    pub fn set(key: &str, value: &[u8], ttl: Option<Duration>) -> io::Result<u64> {
        let mut revision = 0;
        let ttl = milliseconds(ttl);
        check(unsafe { raw::kv_set(key.as_ptr(), key.len(), value.as_ptr(), value.len(), ttl, &mut revision) })?;
        Ok(revision)
    }

    /// Only when the key has this revision, or, with 0, is not there; errno 10 (EBUSY) otherwise.
    pub fn compare_and_set(key: &str, value: &[u8], ttl: Option<Duration>, expected: u64) -> io::Result<u64> {
        let mut revision = 0;
        let ttl = milliseconds(ttl);
        check(unsafe {
            raw::kv_cas(key.as_ptr(), key.len(), value.as_ptr(), value.len(), ttl, expected, &mut revision)
        })?;
        Ok(revision)
    }

    /// `expected` 0: whatever its revision is.
    pub fn delete(key: &str, expected: u64) -> io::Result<()> {
        check(unsafe { raw::kv_delete(key.as_ptr(), key.len(), expected) }).map(|_| ())
    }

    /// Keys that begin with `prefix` and come after `after`, at most `max` (0: 1,000).
    pub fn list(prefix: &str, after: &str, max: u32) -> io::Result<Vec<String>> {
        let bytes = collect(|at, size| unsafe {
            raw::kv_list(prefix.as_ptr(), prefix.len(), after.as_ptr(), after.len(), max, at, size)
        })?;
        let mut keys = Vec::new();
        let mut rest = &bytes[..];
        while rest.len() >= 4 {
            let (head, behind) = rest.split_at(4);
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if length > behind.len() {
                break;
            }
            keys.push(String::from_utf8_lossy(&behind[..length]).into_owned());
            rest = &behind[length..];
        }
        Ok(keys)
    }
}

/// A message of a queue, or a record of a stream.
#[derive(Default)]
pub struct Message<'a> {
    pub body: &'a [u8],
    pub content_type: &'a str,
    /// A JSON object of strings, or nothing.
    pub attributes: &'a str,
    /// Of a FIFO queue; a record's key.
    pub group: &'a str,
    pub delay: Option<Duration>,
    /// 0 to 9.
    pub priority: u32,
}

/// The message's id.
pub fn queue_send(queue: &str, message: &Message) -> io::Result<String> {
    let id = collect(|at, size| unsafe {
        raw::queue_send(
            queue.as_ptr(), queue.len(), message.body.as_ptr(), message.body.len(), message.content_type.as_ptr(),
            message.content_type.len(), message.attributes.as_ptr(), message.attributes.len(), message.group.as_ptr(),
            message.group.len(), milliseconds(message.delay), message.priority, at, size,
        )
    })?;
    Ok(String::from_utf8_lossy(&id).into_owned())
}

/// Partition and sequence.
pub fn stream_append(stream: &str, record: &Message) -> io::Result<(usize, u64)> {
    let mut sequence = 0;
    let partition = check(unsafe {
        raw::stream_append(
            stream.as_ptr(), stream.len(), record.group.as_ptr(), record.group.len(), record.body.as_ptr(),
            record.body.len(), record.content_type.as_ptr(), record.content_type.len(), record.attributes.as_ptr(),
            record.attributes.len(), &mut sequence,
        )
    })?;
    Ok((partition, sequence))
}

pub struct Response {
    pub status: u32,
    /// "Name: value\r\n" each.
    pub fields: String,
    pub body: Vec<u8>,
}

/// Call another function of the project; `fields` as "Name: value\r\n".
pub fn invoke(function: &str, method: &str, path: &str, fields: &str, body: &[u8], timeout: Option<Duration>) -> io::Result<Response> {
    let timeout = milliseconds(timeout).min(u32::MAX as u64) as u32;
    let bytes = collect(|at, size| unsafe {
        raw::invoke(
            function.as_ptr(), function.len(), method.as_ptr(), method.len(), path.as_ptr(), path.len(),
            fields.as_ptr(), fields.len(), body.as_ptr(), body.len(), timeout, at, size,
        )
    })?;
    let number = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let end = (8 + number(4) as usize).min(bytes.len());
    let begin = end.min(8);
    Ok(Response {
        status: number(0),
        fields: String::from_utf8_lossy(&bytes[begin..end]).into_owned(),
        body: bytes[end..].to_vec(),
    })
}

/// A span of the request's trace, until it is dropped.
pub struct Span(i32, String);

impl Span {
    pub fn begin(name: &str) -> io::Result<Span> {
        check(unsafe { raw::span_begin(name.as_ptr(), name.len()) }).map(|span| Span(span as i32, String::new()))
    }

    pub fn attribute(&self, name: &str, value: &str) {
        unsafe { raw::span_attribute(self.0, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
    }

    /// It ends as a failure.
    pub fn fail(mut self, why: &str) {
        self.1 = why.to_string();
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        unsafe { raw::span_end(self.0, self.1.as_ptr(), self.1.len()) };
    }
}
