//! Everything that reaches a terminal, a pipe or a log leaves through here; no other module prints.
//!
//! Why one place: stdout carries the result and nothing else (a table for people, or exactly one JSON document for
//! machines), stderr carries progress, warnings and logs. Both may show text that an attacker chose (file names, answers
//! of servers), so both escape control characters, and both blank out hidden values and secret keys that a person typed in the
//! wrong place.
//!
//! Invariants:
//! * A reader that closes stdout early ends the output quietly, it is no failure.
//! * Progress never costs more than an atomic addition for the thread that reports it.
//! * A progress bar and a log line never overwrite each other.

mod log;
mod output;
mod panic;
mod progress;
mod table;
mod text;

use std::io::Write as _;
use std::sync::OnceLock;

pub use log::{LogFormat, init_logging};
pub use output::{ColorChoice, Output};
pub use panic::report_panics;
pub use progress::{Bar, Progress};
pub use table::Table;
pub use text::{bytes, count, display_path, duration, escape, redact, shell_word};

/// The bars now on the terminal; log lines and warnings make room for themselves through it.
fn bars() -> &'static indicatif::MultiProgress {
    static BARS: OnceLock<indicatif::MultiProgress> = OnceLock::new();
    BARS.get_or_init(indicatif::MultiProgress::new)
}

/// Writes whole lines to stderr, above any progress bar. A closed stderr is nobody's problem but its reader's.
fn write_stderr(text: &[u8]) {
    bars().suspend(|| {
        let _ = std::io::stderr().lock().write_all(text);
    });
}

/// Says on stderr that something deserves attention: `warning: …`, or a log record where logs are JSON.
pub fn warn(message: impl AsRef<str>) {
    let message = redact(message.as_ref());
    if log::is_json() {
        tracing::warn!("{message}");
    } else if log::shows_warnings() {
        write_stderr(format!("warning: {}\n", escape(&message)).as_bytes());
    }
}

/// Says on stderr what is about to happen, unless `-q` was given; a log record where logs are JSON.
pub fn say(message: impl AsRef<str>) {
    let message = redact(message.as_ref());
    if log::is_json() {
        tracing::info!(target: log::SAY_TARGET, "{message}");
    } else if log::shows_warnings() {
        write_stderr(format!("{}\n", escape(&message)).as_bytes());
    }
}

/// Asks on the terminal whether to go on; anything but yes is no. `None` if there is no terminal to ask on.
pub fn ask(question: &str) -> Option<bool> {
    let answer = answer(&format!("{} [y/N] ", escape(&redact(question))))?;
    Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a word on the terminal. `None` if there is no terminal to ask on.
pub fn ask_for(question: &str) -> Option<String> {
    let answer = answer(&format!("{} ", escape(&redact(question))))?;
    Some(answer.trim().to_owned())
}

/// What is typed on the terminal, if there is one; nothing if it cannot be read.
fn answer(prompt: &str) -> Option<String> {
    use std::io::{BufRead as _, IsTerminal as _};
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return None;
    }
    write_stderr(prompt.as_bytes());
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Some(answer)
}

/// Writes the rendered form of an error to stderr. Only the command line's outermost layer calls this.
pub(crate) fn error_lines(lines: &str) {
    write_stderr(redact(lines).as_bytes());
}

/// Whether error and warning lines go out as JSON records.
pub(crate) fn logs_are_json() -> bool {
    log::is_json()
}

#[cfg(test)]
pub(crate) use output::tests as tests_support;
