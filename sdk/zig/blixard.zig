//! The host API of Blixard for Zig: what the calls of module "blixard_v1" are, and the ones that
//! programs use most with slices and errors.  The C header (sdk/c/blixard.h) says what they mean.
//!
//!     zig build-exe visits.zig -target wasm32-wasi -O ReleaseSmall

pub const Level = enum(i32) { err = 3, warning = 4, info = 6, debug = 7 };

pub const host = struct {
    pub extern "blixard_v1" fn log(level: i32, text: [*]const u8, length: usize, fields: ?[*]const u8, fields_length: usize) i32;
    pub extern "blixard_v1" fn kv_get(key: [*]const u8, key_length: usize, value: [*]u8, size: usize, revision: ?*u64) i32;
    pub extern "blixard_v1" fn kv_set(key: [*]const u8, key_length: usize, value: [*]const u8, length: usize, ttl_ms: u64, revision: ?*u64) i32;
    pub extern "blixard_v1" fn kv_cas(key: [*]const u8, key_length: usize, value: [*]const u8, length: usize, ttl_ms: u64, expected: u64, revision: ?*u64) i32;
    pub extern "blixard_v1" fn kv_delete(key: [*]const u8, key_length: usize, expected: u64) i32;
    pub extern "blixard_v1" fn secret_get(name: [*]const u8, name_length: usize, value: [*]u8, size: usize) i32;
    pub extern "blixard_v1" fn deadline_ms() u64;
    pub extern "blixard_v1" fn flush() i32;
    pub extern "blixard_v1" fn error_message(text: [*]u8, size: usize) i32;
};

/// What the host refuses; errorMessage() has its words.
pub const Error = error{ NotFound, Busy, TooLarge, Refused };

fn check(result: i32) Error!usize {
    if (result >= 0) return @intCast(result);
    return switch (result) {
        NOT_FOUND => Error.NotFound,
        BUSY => Error.Busy,
        else => Error.Refused,
    };
}

/// ENOENT and EBUSY, as WASI numbers errors.
const NOT_FOUND = -44;
const BUSY = -10;

/// Why the last call failed.
pub fn errorMessage(buffer: []u8) []const u8 {
    const length = host.error_message(buffer.ptr, buffer.len);
    return buffer[0..@min(@as(usize, @intCast(@max(length, 0))), buffer.len)];
}

pub fn log(level: Level, text: []const u8) void {
    _ = host.log(@intFromEnum(level), text.ptr, text.len, null, 0);
}

pub const Value = struct { bytes: []const u8, revision: u64 };

/// NotFound where there is none; TooLarge for the buffer.
pub fn kvGet(key: []const u8, buffer: []u8) Error!Value {
    var revision: u64 = 0;
    const length = try check(host.kv_get(key.ptr, key.len, buffer.ptr, buffer.len, &revision));
    if (length > buffer.len) return Error.TooLarge;
    return .{ .bytes = buffer[0..length], .revision = revision };
}

/// `ttl_ms` 0: it stays.
pub fn kvSet(key: []const u8, value: []const u8, ttl_ms: u64) Error!void {
    _ = try check(host.kv_set(key.ptr, key.len, value.ptr, value.len, ttl_ms, null));
}

/// Only where the revision is still that one (0: where there is none); else Busy.
pub fn kvCas(key: []const u8, value: []const u8, ttl_ms: u64, expected: u64) Error!void {
    _ = try check(host.kv_cas(key.ptr, key.len, value.ptr, value.len, ttl_ms, expected, null));
}

pub fn secretGet(name: []const u8, buffer: []u8) Error![]const u8 {
    const length = try check(host.secret_get(name.ptr, name.len, buffer.ptr, buffer.len));
    if (length > buffer.len) return Error.TooLarge;
    return buffer[0..length];
}

/// Milliseconds that are left.
pub fn deadlineMs() u64 {
    return host.deadline_ms();
}
