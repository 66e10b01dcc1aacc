//! Errors of the host as `std::io::Error`: its kind, the node's sentence, and the number below it.

use crate::raw;
use std::fmt;
use std::io;

/// Numbers that a program may want to tell apart; those of `wasi_snapshot_preview1`.
pub const EACCES: i32 = 2;
pub const EBUSY: i32 = 10;
pub const EDQUOT: i32 = 19;
pub const EMSGSIZE: i32 = 35;
pub const ENOSPC: i32 = 51;
pub const EPERM: i32 = 63;

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

/// The number of an error from the host, as WASI has it; 0 for any other error.
pub fn errno(error: &io::Error) -> i32 {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Refusal>())
        .map_or(0, |refusal| refusal.errno)
}

fn kind_of(errno: i32) -> io::ErrorKind {
    match errno {
        EACCES | EPERM => io::ErrorKind::PermissionDenied,
        6 => io::ErrorKind::WouldBlock,
        20 => io::ErrorKind::AlreadyExists,
        28 => io::ErrorKind::InvalidInput,
        44 => io::ErrorKind::NotFound,
        52 | 58 => io::ErrorKind::Unsupported,
        73 => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    }
}

/// What an import answered: a number, or why not.
pub fn check(result: i32) -> io::Result<usize> {
    if result >= 0 {
        return Ok(result as usize);
    }
    let mut text = vec![0u8; 512];
    let length = unsafe { raw::error_message(text.as_mut_ptr(), text.len()) };
    text.truncate(length.max(0) as usize);
    let errno = result.wrapping_neg();
    let mut text = raw::text_of(text);
    if text.is_empty() {
        text = format!("error {errno} of the host");
    }
    Err(io::Error::new(kind_of(errno), Refusal { errno, text }))
}
