//! Calling another function of the project.

use crate::raw::{self, collect};
use std::io;
use std::time::Duration;

/// A call of "NAME", "NAME:ALIAS" or "NAME:VERSION".
#[derive(Clone, Debug)]
pub struct Call {
    function: String,
    method: String,
    path: String,
    fields: String,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

impl Call {
    /// A POST to `/`, without a body.
    pub fn new(function: &str) -> Call {
        Call {
            function: function.to_string(),
            method: "POST".to_string(),
            path: "/".to_string(),
            fields: String::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    pub fn method(mut self, method: &str) -> Call {
        self.method = method.to_string();
        self
    }

    /// With its query.
    pub fn path(mut self, path: &str) -> Call {
        self.path = path.to_string();
        self
    }

    /// The node refuses what is not a header field.
    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.fields
            .push_str(&format!("{name}: {}\r\n", value.replace(&['\r', '\n'][..], " ")));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Call {
        self.body = body.into();
        self
    }

    /// Default: what is left of this request's own time.
    pub fn timeout(mut self, timeout: Duration) -> Call {
        self.timeout = Some(timeout);
        self
    }

    /// Any status is an answer; an error is a call that came to nothing.
    pub fn send(self) -> io::Result<Answer> {
        let timeout = crate::milliseconds(self.timeout).min(u32::MAX as u64) as u32;
        let bytes = collect(|at, size| unsafe {
            raw::invoke(
                self.function.as_ptr(),
                self.function.len(),
                self.method.as_ptr(),
                self.method.len(),
                self.path.as_ptr(),
                self.path.len(),
                self.fields.as_ptr(),
                self.fields.len(),
                self.body.as_ptr(),
                self.body.len(),
                timeout,
                at,
                size,
            )
        })?;
        Ok(Answer::read(&bytes))
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u32,
    /// "Name: value\r\n" each.
    pub fields: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// u32 status, u32 length of the fields, the fields, the body.
    pub(crate) fn read(bytes: &[u8]) -> Answer {
        let number = |at: usize| {
            bytes
                .get(at..at + 4)
                .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let begin = bytes.len().min(8);
        let end = bytes.len().min(begin.saturating_add(number(4) as usize));
        Answer {
            status: number(0),
            fields: String::from_utf8_lossy(&bytes[begin..end]).into_owned(),
            body: bytes[end..].to_vec(),
        }
    }

    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.fields.lines().filter_map(|line| line.split_once(':'));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// The body as text; what is not UTF-8 in it is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
