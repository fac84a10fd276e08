//! Keeps SQLite from writing beside a live database, whatever it comes upon there.
//!
//! A read-only connection still creates a missing `-wal`, unlinks the `-wal` of an empty database, and, as
//! root, gives side files the owner (and empty ones the mode) of the database, which at the least moves their
//! ctime. No setting turns that off and checking beforehand cannot prevent it: the last writer may remove its
//! files between the check and the open. So the four system calls go through here, by the hook that SQLite has
//! for this (`xSetSystemCall`), and do nothing on a thread that holds an [`Untouched`]. On every other
//! thread SQLite works as ever.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::marker::PhantomData;
use std::sync::OnceLock;

use rusqlite::ffi;
use rustix::fs::OFlags;

type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type Unlink = unsafe extern "C" fn(*const c_char) -> c_int;
type Chown = unsafe extern "C" fn(c_int, c_uint, c_uint) -> c_int;
type Chmod = unsafe extern "C" fn(c_int, c_uint) -> c_int;

/// SQLite's own functions.
struct Calls {
    open: Open,
    unlink: Unlink,
    chown: Chown,
    chmod: Chmod,
    /// All four are hooked.
    complete: bool,
}

/// Set once; `None` if nothing could be hooked.
static CALLS: OnceLock<Option<Calls>> = OnceLock::new();

thread_local! {
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, SQLite on this thread creates, unlinks, chowns and chmods no file. Not to be nested.
#[derive(Debug)]
pub(super) struct Untouched(PhantomData<*const ()>);

impl Untouched {
    /// `None` if this build of SQLite has no such hook; then no live database must be opened.
    pub(super) fn begin() -> Option<Self> {
        CALLS.get_or_init(install).as_ref().filter(|calls| calls.complete)?;
        HELD.set(true);
        Some(Self(PhantomData))
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

fn held() -> bool {
    HELD.try_with(Cell::get).unwrap_or(false)
}

/// A thread that gets into a hook while another one installs them waits for the rest.
fn calls() -> Option<&'static Calls> {
    CALLS.wait().as_ref()
}

#[expect(unsafe_code, reason = "SQLite calls it; the arguments are passed on as they came")]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let creates = OFlags::CREATE.bits().cast_signed();
    let flags = if held() { flags & !creates } else { flags };
    // SAFETY: SQLite's own function with SQLite's own arguments, less one flag bit.
    calls().map_or(-1, |calls| unsafe { (calls.open)(path, flags, mode) })
}

#[expect(unsafe_code, reason = "SQLite calls it; the argument is passed on as it came")]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: SQLite's own function with SQLite's own argument.
    calls().filter(|_| !held()).map_or(-1, |calls| unsafe { (calls.unlink)(path) })
}

#[expect(unsafe_code, reason = "SQLite calls it; the arguments are passed on as they came")]
unsafe extern "C" fn chown(file: c_int, user: c_uint, group: c_uint) -> c_int {
    // SAFETY: SQLite's own function with SQLite's own arguments.
    calls().filter(|_| !held()).map_or(0, |calls| unsafe { (calls.chown)(file, user, group) })
}

#[expect(unsafe_code, reason = "SQLite calls it; the arguments are passed on as they came")]
unsafe extern "C" fn chmod(file: c_int, mode: c_uint) -> c_int {
    // SAFETY: SQLite's own function with SQLite's own arguments.
    calls().filter(|_| !held()).map_or(0, |calls| unsafe { (calls.chmod)(file, mode) })
}

#[expect(unsafe_code, reason = "the hook exists in SQLite's C interface only")]
fn install() -> Option<Calls> {
    type Any = unsafe extern "C" fn();
    // SAFETY: `sqlite3_vfs_find` initialises SQLite and returns null or a VFS that lives as long as the process.
    let vfs = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    if vfs.is_null() {
        return None;
    }
    // SAFETY: not null, and only read.
    let (get, set) = unsafe { ((*vfs).xGetSystemCall?, (*vfs).xSetSystemCall?) };
    // SAFETY: a method of this VFS, with a name that it only compares.
    let original = |name: &CStr| unsafe { get(vfs, name.as_ptr()) };
    let (open_call, unlink_call) = (original(c"open")?, original(c"unlink")?);
    let (chown_call, chmod_call) = (original(c"fchown")?, original(c"fchmod")?);
    // SAFETY: SQLite stores each under this name as a pointer to a function of just this type (`os_unix.c`:
    // `osOpen`, `osUnlink`, `osFchown`, `osFchmod`; uid_t, gid_t and mode_t are `unsigned` on Linux).
    let mut calls = unsafe {
        Calls {
            open: std::mem::transmute::<Any, Open>(open_call),
            unlink: std::mem::transmute::<Any, Unlink>(unlink_call),
            chown: std::mem::transmute::<Any, Chown>(chown_call),
            chmod: std::mem::transmute::<Any, Chmod>(chmod_call),
            complete: false,
        }
    };
    // SAFETY: as above, the other way. Each replacement is one aligned pointer; whoever calls the old one meanwhile
    // calls a function that stays valid.
    calls.complete = unsafe {
        let hooks = [
            (c"open", std::mem::transmute::<Open, Any>(open)),
            (c"unlink", std::mem::transmute::<Unlink, Any>(unlink)),
            (c"fchown", std::mem::transmute::<Chown, Any>(chown)),
            (c"fchmod", std::mem::transmute::<Chmod, Any>(chmod)),
        ];
        hooks.iter().all(|(name, hook)| set(vfs, name.as_ptr(), Some(*hook)) == ffi::SQLITE_OK)
    };
    Some(calls)
}
