//! Counts visits, without losing one however many come at once.
const std = @import("std");
const blixard = @import("blixard.zig");

fn next(buffer: []u8) !u64 {
    var count: u64 = 1;
    var revision: u64 = 0;
    if (blixard.kvGet("visits", buffer)) |value| {
        count = try std.fmt.parseInt(u64, value.bytes, 10) + 1;
        revision = value.revision;
    } else |problem| {
        if (problem != blixard.Error.NotFound) return problem;
    }
    const text = try std.fmt.bufPrint(buffer, "{d}", .{count});
    try blixard.kvCas("visits", text, 0, revision);
    return count;
}

pub fn main() !void {
    const out = std.io.getStdOut().writer();
    var memory: [4096]u8 = undefined; // of the environment
    var all = std.heap.FixedBufferAllocator.init(&memory);
    const method = std.process.getEnvVarOwned(all.allocator(), "REQUEST_METHOD") catch "GET";
    var buffer: [32]u8 = undefined;
    var count: u64 = 0;
    while (count == 0) {
        count = next(&buffer) catch |problem| switch (problem) {
            blixard.Error.Busy => 0, // somebody was faster
            else => return problem,
        };
    }
    blixard.log(.info, "a visit");
    try out.print("Content-Type: text/plain\n\n{s} {d}\n", .{ method, count });
}
