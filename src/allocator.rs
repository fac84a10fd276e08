//! Keeps glibc's allocator from holding on to what was freed, so that the bound on memory is one on what the
//! operating system sees.
//!
//! By default each thread may get an arena of its own, and once a large block was freed, blocks of its size come from
//! the arenas too. A handful of packs of 28 MiB then leaves holes of the same size in several arenas.

/// Arenas for all threads together. Two keep the decoders of a small machine from waiting for each other.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// From this size on a block is memory of its own, which is returned when it is freed: packs, and not frames.
#[cfg(target_env = "gnu")]
const OWN_MEMORY: libc::c_int = 16 << 20;

/// Sets the bounds. To be called before the first thread is started.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library has no other way to say it")]
pub fn keep_small() {
    // What cannot be set stays as it was, which costs memory and nothing else: the answers do not matter.
    // SAFETY: `mallopt` takes two numbers and changes settings of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MEMORY);
    }
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub const fn keep_small() {}
