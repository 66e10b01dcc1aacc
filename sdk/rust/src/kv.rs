//! Keys and values of the project: docs/user-guide/kv.md.

use crate::error::{check, errno, EBUSY};
use crate::raw::{self, collect};
use std::io;
use std::time::Duration;

/// A value, and the revision it has: each write gives a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: Vec<u8>,
    pub revision: u64,
}

impl Entry {
    /// The value as text; what is not UTF-8 in it is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

/// `None`: there is no such key.
pub fn get(key: &str) -> io::Result<Option<Entry>> {
    let mut revision = 0;
    match collect(|at, size| unsafe { raw::kv_get(key.as_ptr(), key.len(), at, size, &mut revision) }) {
        Ok(value) => Ok(Some(Entry { value, revision })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Write, whatever was there; the new revision.
pub fn set(key: &str, value: impl AsRef<[u8]>) -> io::Result<u64> {
    write(key, value.as_ref(), 0)
}

/// The same, gone after this time.
pub fn set_for(key: &str, value: impl AsRef<[u8]>, time_to_live: Duration) -> io::Result<u64> {
    write(key, value.as_ref(), crate::milliseconds(Some(time_to_live)))
}

fn write(key: &str, value: &[u8], ttl_ms: u64) -> io::Result<u64> {
    let mut revision = 0;
    check(unsafe {
        raw::kv_set(
            key.as_ptr(),
            key.len(),
            value.as_ptr(),
            value.len(),
            ttl_ms,
            &mut revision,
        )
    })?;
    Ok(revision)
}

/// Write only if the key is at this revision (`None`: if there is no such key).  The new revision,
/// or `None`: somebody else was faster.
pub fn compare_and_set(
    key: &str,
    value: impl AsRef<[u8]>,
    expected: Option<u64>,
    time_to_live: Option<Duration>,
) -> io::Result<Option<u64>> {
    let value = value.as_ref();
    let ttl_ms = crate::milliseconds(time_to_live);
    let expected = expected.unwrap_or(0);
    let mut revision = 0;
    let asked = check(unsafe {
        raw::kv_cas(
            key.as_ptr(),
            key.len(),
            value.as_ptr(),
            value.len(),
            ttl_ms,
            expected,
            &mut revision,
        )
    });
    match asked {
        Ok(_) => Ok(Some(revision)),
        Err(error) if errno(&error) == EBUSY => Ok(None),
        Err(error) => Err(error),
    }
}

/// Make a new value of the old one, again until nobody was faster; what was written.
pub fn update(key: &str, mut change: impl FnMut(Option<&[u8]>) -> Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        let old = get(key)?;
        let value = change(old.as_ref().map(|entry| &entry.value[..]));
        if compare_and_set(key, &value, old.map(|entry| entry.revision), None)?.is_some() {
            return Ok(value);
        }
    }
}

/// Whether there was such a key.
pub fn delete(key: &str) -> io::Result<bool> {
    match check(unsafe { raw::kv_delete(key.as_ptr(), key.len(), 0) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Delete only if the key is at this revision; `false`: it is not, or not there.
pub fn compare_and_delete(key: &str, expected: u64) -> io::Result<bool> {
    match check(unsafe { raw::kv_delete(key.as_ptr(), key.len(), expected) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound || errno(&error) == EBUSY => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keys that begin with `prefix` and come after `after`, in order, at most `max` (0: 1,000).
pub fn list(prefix: &str, after: &str, max: u32) -> io::Result<Vec<String>> {
    let bytes = collect(|at, size| unsafe {
        raw::kv_list(
            prefix.as_ptr(),
            prefix.len(),
            after.as_ptr(),
            after.len(),
            max,
            at,
            size,
        )
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
