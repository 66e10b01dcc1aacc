//! Functions on Blixard: requests and answers, and what a function may ask its host.
//!
//! ```no_run
//! use blixard::{kv, Request, Response};
//!
//! fn visit(request: Request) -> std::io::Result<Response> {
//!     let name = request.parameter("name").unwrap_or_else(|| "world".to_string());
//!     let count = kv::update("visits", |old| {
//!         let old = old.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse().ok());
//!         (old.unwrap_or(0u64) + 1).to_string().into_bytes()
//!     })?;
//!     Ok(Response::text(format!("Hello, {name}: visit {}\n", String::from_utf8_lossy(&count))))
//! }
//!
//! fn main() {
//!     blixard::serve(visit)
//! }
//! ```
//!
//! `blixard fn build` supplies this crate; it has no dependencies.  Whatever can fail is a
//! `std::io::Result` with the node's sentence, and nothing here panics.  The host can be asked while
//! a request is answered, which is all the time that `main()` runs.  What each question means is in
//! docs/user-guide/host-api.md.

mod call;
mod error;
mod fetch;
mod http;
pub mod kv;
mod message;
mod raw;

pub use call::{Answer, Call};
pub use error::{errno, EACCES, EBUSY, EDQUOT, EMSGSIZE, ENOSPC, EPERM};
pub use fetch::{fetch_reason, Arriving, Fetch, Pending, Redirects};
pub use http::{serve, IntoResponse, Output, Request, Response};
pub use message::{queue, stream, Message};

use error::check;
use std::io;
use std::time::Duration;

/// 0 is the host's "none": a time that is shorter than its unit is still one.
fn milliseconds(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| (time.as_millis().min(u64::MAX as u128) as u64).max(1))
}

/// Levels of the log, as in sd-daemon(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

/// One line of the function's log, with fields: `log(Level::Info, "sent", &[("to", "Ada")])`.
pub fn log(level: Level, text: &str, fields: &[(&str, &str)]) {
    let mut all = Vec::new();
    for part in fields.iter().flat_map(|(name, value)| [name, value]) {
        all.extend(part.bytes().filter(|byte| *byte != 0)); // which ends a part
        all.push(0);
    }
    unsafe { raw::log(level as u32, text.as_ptr(), text.len(), all.as_ptr(), all.len()) };
}

/// How long until this request must be answered.
pub fn deadline() -> Duration {
    Duration::from_millis(unsafe { raw::deadline_ms() })
}

/// Facts of the request, known from the node's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    Project,
    Function,
    Version,
    RequestId,
    Traceparent,
}

pub fn metadata(fact: Fact) -> io::Result<String> {
    raw::collect(|at, size| unsafe { raw::metadata(fact as u32, at, size) }).map(raw::text_of)
}

/// A secret that the function's configuration names, as it is now; errno 2 (EACCES) when it does
/// not name it.
pub fn secret(name: &str) -> io::Result<Vec<u8>> {
    raw::collect(|at, size| unsafe { raw::secret_get(name.as_ptr(), name.len(), at, size) })
}

/// A span of the request's trace, until it is dropped.
pub struct Span {
    number: i32,
    failure: String,
}

impl Span {
    pub fn begin(name: &str) -> io::Result<Span> {
        let number = check(unsafe { raw::span_begin(name.as_ptr(), name.len()) })?;
        Ok(Span {
            number: number as i32,
            failure: String::new(),
        })
    }

    pub fn attribute(&self, name: &str, value: &str) -> io::Result<()> {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        check(unsafe { raw::span_attribute(self.number, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
            .map(|_| ())
    }

    /// It ends as a failure.
    pub fn fail(mut self, why: &str) {
        self.failure = why.to_string();
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        unsafe { raw::span_end(self.number, self.failure.as_ptr(), self.failure.len()) };
    }
}
