//! An allocator that wipes what is freed, for a program that handles secrets.
//!
//! Why not only buffers that wipe themselves: the libraries for HTTP, TLS and JSON copy what they are given into buffers
//! of their own, and free those as they are.
//!
//! Invariants:
//! * Once [`turn_on`] was called, no block goes back to the system with its content, also not when it grows or shrinks.
//!   It is never turned off: nobody knows which block still holds a piece of a secret.
//! * Before, it is the system's allocator and one relaxed load of a flag.
//!
//! It is in force where a program names it as its `#[global_allocator]`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static ON: AtomicBool = AtomicBool::new(false);

/// From now on, what is freed is wiped.
pub fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

/// The system's allocator, which wipes what is freed once it was told to.
#[derive(Clone, Copy, Debug)]
pub struct Wiping;

fn is_on() -> bool {
    // No memory depends on the flag: a thread that sees it late frees one more block as it is.
    ON.load(Ordering::Relaxed)
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its interface")]
// SAFETY: each block comes from `System` and goes back to it with the same layout; in between nothing but its bytes
// is touched.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same for `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_on() {
            // SAFETY: the caller gives a block of this size that nobody uses any more. The C library promises that this
            // is not optimised away although the block is freed at once.
            unsafe { libc::explicit_bzero(block.cast(), layout.size()) };
        }
        // SAFETY: as for `alloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !is_on() {
            // SAFETY: as for `alloc`.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // The system would free the old block itself, with its content, or keep the tail of one that shrinks.
        // SAFETY: the caller promises that the size is not zero and is one that a layout can have with this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: as for `alloc`.
        let new = unsafe { System.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks have at least so many bytes, and the new one is nobody else's.
            unsafe { std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size)) };
            // SAFETY: the caller gives up the old block when the answer is not null.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}
