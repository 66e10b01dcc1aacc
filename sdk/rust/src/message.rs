//! What queues and streams take: docs/user-guide/queues-and-streams.md.

use crate::error::check;
use crate::raw::{self, collect, text_of};
use std::io;
use std::time::Duration;

/// A message of a queue, or a record of a stream.
#[derive(Clone, Debug, Default)]
pub struct Message {
    body: Vec<u8>,
    content_type: String,
    attributes: String,
    key: String,
    delay: Option<Duration>,
    priority: u32,
}

impl Message {
    pub fn new(body: impl Into<Vec<u8>>) -> Message {
        Message {
            body: body.into(),
            ..Message::default()
        }
    }

    /// A body that is JSON.
    pub fn json(body: impl Into<String>) -> Message {
        Message::new(body.into()).content_type("application/json")
    }

    /// Default: `application/octet-stream`.
    pub fn content_type(mut self, kind: &str) -> Message {
        self.content_type = kind.to_string();
        self
    }

    /// One more attribute.
    pub fn attribute(mut self, name: &str, value: &str) -> Message {
        self.attributes.push(if self.attributes.is_empty() { '{' } else { ',' });
        quote(name, &mut self.attributes);
        self.attributes.push(':');
        quote(value, &mut self.attributes);
        self
    }

    /// In a stream, records with the same key keep their order; in a FIFO queue, messages do.
    pub fn key(mut self, key: &str) -> Message {
        self.key = key.to_string();
        self
    }

    /// In a queue: nobody gets it before.
    pub fn delay(mut self, delay: Duration) -> Message {
        self.delay = Some(delay);
        self
    }

    /// In a queue: 0 to 9; the highest goes first.
    pub fn priority(mut self, priority: u32) -> Message {
        self.priority = priority;
        self
    }

    fn closed_attributes(&self) -> String {
        if self.attributes.is_empty() {
            String::new()
        } else {
            format!("{}}}", self.attributes)
        }
    }
}

/// A string of JSON (RFC 8259, section 7).
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Durable queues of the project.
pub mod queue {
    use super::*;

    /// The message's id.
    pub fn send(queue: &str, message: &Message) -> io::Result<String> {
        let attributes = message.closed_attributes();
        let id = collect(|at, size| unsafe {
            raw::queue_send(
                queue.as_ptr(),
                queue.len(),
                message.body.as_ptr(),
                message.body.len(),
                message.content_type.as_ptr(),
                message.content_type.len(),
                attributes.as_ptr(),
                attributes.len(),
                message.key.as_ptr(),
                message.key.len(),
                crate::milliseconds(message.delay),
                message.priority,
                at,
                size,
            )
        })?;
        Ok(text_of(id))
    }
}

/// Partitioned streams of the project.
pub mod stream {
    use super::*;

    /// Where a record stands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Position {
        pub partition: u32,
        pub sequence: u64,
    }

    pub fn append(stream: &str, record: &Message) -> io::Result<Position> {
        let attributes = record.closed_attributes();
        let mut sequence = 0;
        let partition = check(unsafe {
            raw::stream_append(
                stream.as_ptr(),
                stream.len(),
                record.key.as_ptr(),
                record.key.len(),
                record.body.as_ptr(),
                record.body.len(),
                record.content_type.as_ptr(),
                record.content_type.len(),
                attributes.as_ptr(),
                attributes.len(),
                &mut sequence,
            )
        })?;
        Ok(Position {
            partition: partition as u32,
            sequence,
        })
    }
}
