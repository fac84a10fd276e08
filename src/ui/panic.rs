//! What is said of a panic, which is a bug of this program: one line, as safe to show as any other.
//!
//! Why not the standard hook: a message may hold a value, such as the one that could not be unwrapped.

use std::io::Write as _;
use std::panic::PanicHookInfo;

use super::log;
use super::text::{escape, redact};

/// From now on a panic, in whatever thread, is told on stderr in one line without secrets.
pub fn report_panics() {
    std::panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(|place| format!(" ({place})")).unwrap_or_default();
    let line = escape(&redact(&format!("this is a bug in opsctl{place}: {message}")));
    if log::is_json() {
        tracing::error!("{line}");
    } else {
        // Not above the progress bars: it may be their code that panicked, with their lock held.
        let _ = std::io::stderr().lock().write_all(format!("error: {line}\n").as_bytes());
    }
}
