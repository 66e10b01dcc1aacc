//! The import module `blixard_v1` as it is; docs/user-guide/host-api.md is its manual.

use crate::error::check;
use std::io;

#[link(wasm_import_module = "blixard_v1")]
#[rustfmt::skip]
extern "C" {
    pub fn log(level: u32, text: *const u8, length: usize, fields: *const u8, fields_length: usize) -> i32;
    pub fn kv_get(key: *const u8, key_length: usize, value: *mut u8, size: usize, revision: *mut u64) -> i32;
    pub fn kv_set(key: *const u8, key_length: usize, value: *const u8, length: usize, ttl_ms: u64, revision: *mut u64) -> i32;
    pub fn kv_cas(key: *const u8, key_length: usize, value: *const u8, length: usize, ttl_ms: u64, expected: u64, revision: *mut u64) -> i32;
    pub fn kv_delete(key: *const u8, key_length: usize, expected: u64) -> i32;
    pub fn kv_list(prefix: *const u8, prefix_length: usize, after: *const u8, after_length: usize, max: u32, list: *mut u8, size: usize) -> i32;
    pub fn secret_get(name: *const u8, name_length: usize, value: *mut u8, size: usize) -> i32;
    pub fn queue_send(queue: *const u8, queue_length: usize, body: *const u8, length: usize, kind: *const u8, kind_length: usize, attributes: *const u8, attributes_length: usize, group: *const u8, group_length: usize, delay_ms: u64, priority: u32, id: *mut u8, size: usize) -> i32;
    pub fn stream_append(stream: *const u8, stream_length: usize, key: *const u8, key_length: usize, body: *const u8, length: usize, kind: *const u8, kind_length: usize, attributes: *const u8, attributes_length: usize, sequence: *mut u64) -> i32;
    pub fn invoke(name: *const u8, name_length: usize, method: *const u8, method_length: usize, path: *const u8, path_length: usize, fields: *const u8, fields_length: usize, body: *const u8, length: usize, timeout_ms: u32, buffer: *mut u8, size: usize) -> i32;
    pub fn fetch(method: *const u8, method_length: usize, url: *const u8, url_length: usize, fields: *const u8, fields_length: usize, body: *const u8, length: usize, timeout_ms: u32, how: u32, buffer: *mut u8, size: usize, rest: *mut u32) -> i32;
    pub fn fetch_wait(among: u32, most_ms: u32) -> i32;
    pub fn fetch_take(which: u32, buffer: *mut u8, size: usize, rest: *mut u32) -> i32;
    pub fn fetch_read(which: u32, bytes: *mut u8, size: usize) -> i32;
    pub fn fetch_close(which: u32) -> i32;
    pub fn deadline_ms() -> u64;
    pub fn metadata(which: u32, text: *mut u8, size: usize) -> i32;
    pub fn span_begin(name: *const u8, length: usize) -> i32;
    pub fn span_attribute(span: i32, name: *const u8, name_length: usize, value: *const u8, length: usize) -> i32;
    pub fn span_end(span: i32, failure: *const u8, length: usize) -> i32;
    pub fn flush() -> i32;
    pub fn reply_read(from: u32, bytes: *mut u8, size: usize) -> i32;
    pub fn error_message(text: *mut u8, size: usize) -> i32;
}

/// Ask with a buffer, and read on what did not fit.
pub fn collect(ask: impl FnOnce(*mut u8, usize) -> i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; 4096];
    let length = check(ask(bytes.as_mut_ptr(), bytes.len()))?;
    let there = length.min(bytes.len());
    bytes.resize(length, 0);
    if length > there {
        check(unsafe { reply_read(there as u32, bytes[there..].as_mut_ptr(), length - there) })?;
    }
    Ok(bytes)
}

pub fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
