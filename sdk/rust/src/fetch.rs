//! Asking other servers by HTTP and HTTPS: those on the function's list (`fetch.allow` in blixard.yaml).

use crate::call::Answer;
use crate::error::check;
use crate::raw;
use std::io::{self, Read};
use std::time::Duration;

const HEAD: u32 = 1;
const LATER: u32 = 2;
const PIECE: usize = 65536;

/// What becomes of redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// They are followed, each target being on the list.
    Follow = 0,
    /// They are answers.
    Manual = 4,
    /// They are errors.
    Refuse = 8,
}

/// A request to a URL.  An error's text begins with one word for why ("not_allowed: ...", "timeout: ..."),
/// which [`fetch_reason`] gives.
#[derive(Clone, Debug)]
pub struct Fetch {
    method: String,
    url: String,
    fields: String,
    body: Vec<u8>,
    timeout: Option<Duration>,
    redirects: Redirects,
}

impl Fetch {
    pub fn new(method: &str, url: &str) -> Fetch {
        Fetch {
            method: method.to_string(),
            url: url.to_string(),
            fields: String::new(),
            body: Vec::new(),
            timeout: None,
            redirects: Redirects::Follow,
        }
    }

    pub fn get(url: &str) -> Fetch {
        Fetch::new("GET", url)
    }

    pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Fetch {
        Fetch::new("POST", url).body(body)
    }

    /// The node refuses what is not a header field.
    pub fn header(mut self, name: &str, value: &str) -> Fetch {
        self.fields
            .push_str(&format!("{name}: {}\r\n", value.replace(&['\r', '\n'][..], " ")));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Fetch {
        self.body = body.into();
        self
    }

    /// Default: what is left of this request's own time.
    pub fn timeout(mut self, timeout: Duration) -> Fetch {
        self.timeout = Some(timeout);
        self
    }

    pub fn redirects(mut self, redirects: Redirects) -> Fetch {
        self.redirects = redirects;
        self
    }

    fn ask(&self, how: u32, at: *mut u8, size: usize, rest: *mut u32) -> i32 {
        let timeout = crate::milliseconds(self.timeout).min(u32::MAX as u64) as u32;
        unsafe {
            raw::fetch(
                self.method.as_ptr(),
                self.method.len(),
                self.url.as_ptr(),
                self.url.len(),
                self.fields.as_ptr(),
                self.fields.len(),
                self.body.as_ptr(),
                self.body.len(),
                timeout,
                self.redirects as u32 | how,
                at,
                size,
                rest,
            )
        }
    }

    /// The whole answer.  Any status is one; an error is a request that came to nothing.
    pub fn send(&self) -> io::Result<Answer> {
        let mut rest = 0;
        let bytes = raw::collect(|at, size| self.ask(0, at, size, &mut rest))?;
        Arriving::new(&bytes, rest).whole()
    }

    /// The answer as soon as its head is there: the body is read as it comes.
    pub fn open(&self) -> io::Result<Arriving> {
        let mut rest = 0;
        let bytes = raw::collect(|at, size| self.ask(HEAD, at, size, &mut rest))?;
        Ok(Arriving::new(&bytes, rest))
    }

    /// Under way, while the function goes on; at most 16 are at once.
    pub fn begin(&self) -> io::Result<Pending> {
        let number = check(self.ask(LATER, std::ptr::null_mut(), 0, std::ptr::null_mut()))?;
        Ok(Pending(number as u32))
    }
}

/// A request that was begun; dropped, it is broken off.
#[derive(Debug)]
pub struct Pending(u32);

impl Pending {
    /// Whether its answer is there, after at most so long.
    pub fn wait(&self, most: Duration) -> io::Result<bool> {
        let most = most.as_millis().min(u32::MAX as u128) as u32;
        check(unsafe { raw::fetch_wait(1 << (self.0 - 1), most) }).map(|which| which > 0)
    }

    pub fn take(mut self) -> io::Result<Answer> {
        let mut rest = 0;
        let number = std::mem::take(&mut self.0);
        let bytes = raw::collect(|at, size| unsafe { raw::fetch_take(number, at, size, &mut rest) })?;
        Arriving::new(&bytes, rest).whole()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.0 > 0 {
            unsafe { raw::fetch_close(self.0) };
        }
    }
}

/// An answer whose body is read as it comes; dropped, it is broken off.
#[derive(Debug)]
pub struct Arriving {
    head: Answer, // with the body's beginning
    taken: usize, // of it
    rest: u32,
}

impl Arriving {
    fn new(bytes: &[u8], rest: u32) -> Arriving {
        Arriving {
            head: Answer::read(bytes),
            taken: 0,
            rest,
        }
    }

    pub fn status(&self) -> u32 {
        self.head.status
    }

    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    fn whole(mut self) -> io::Result<Answer> {
        let mut body = std::mem::take(&mut self.head.body);
        while self.rest > 0 {
            let there = body.len();
            body.resize(there + PIECE, 0);
            let got = self.fetch(&mut body[there..])?;
            body.truncate(there + got);
        }
        Ok(Answer {
            body,
            ..self.head.clone()
        })
    }

    fn fetch(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = check(unsafe { raw::fetch_read(self.rest, to.as_mut_ptr(), to.len()) });
        if !matches!(got, Ok(1..)) {
            self.rest = 0; // its number is free
        }
        got
    }
}

impl Read for Arriving {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let there = &self.head.body[self.taken..];
        if !there.is_empty() || self.rest == 0 || to.is_empty() {
            let count = there.len().min(to.len());
            to[..count].copy_from_slice(&there[..count]);
            self.taken += count;
            return Ok(count);
        }
        self.fetch(to)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.rest > 0 {
            unsafe { raw::fetch_close(self.rest) };
        }
    }
}

/// The word that the error of a fetch begins with: "connect", "timeout", ...; "" of any other error.
pub fn fetch_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let word = text.split(": ").next().unwrap_or_default();
    let is_word = word.len() < text.len() && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    if is_word {
        word.to_string()
    } else {
        String::new()
    }
}
