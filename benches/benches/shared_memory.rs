//! How often does an operation lock memory, and how many cache lines does it touch? The exact gate's second program;
//! everything about it is in [`clashtrack_benches::gate::shared_memory`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;

/// Begins everything at a cache line of its own: which lines a value is in depends on the value
/// alone, and not on what was allocated before it.
struct ByLines;

const LINE_BYTES: usize = 64;

fn by_lines(layout: Layout) -> Layout {
    // What cannot be aligned so is too large to be had anyway.
    layout.align_to(LINE_BYTES).unwrap_or(layout)
}

// SAFETY: the system's allocator, asked for the same size with an alignment that is at least as large.
unsafe impl GlobalAlloc for ByLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the size is the caller's, not 0 by its promise.
        unsafe { System.alloc(by_lines(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: it came from `alloc`, which asked for the same.
        unsafe { System.dealloc(memory, by_lines(layout)) }
    }
}

#[global_allocator]
static ALLOCATOR: ByLines = ByLines;

fn main() -> ExitCode {
    clashtrack_benches::gate::shared_memory::main()
}
