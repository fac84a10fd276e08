//! How far a long job is: a bar on a terminal, a log line every 30 seconds elsewhere, or nothing.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::log::PROGRESS_TARGET;
use super::text::{bytes, duration, escape, redact};

const LINE_EVERY: Duration = Duration::from_secs(30);
/// Stands for "no total known"; no volume has this many bytes.
const UNKNOWN: u64 = u64::MAX;

/// Decides once per process how progress is shown, and starts bars. Cheap to clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress(Mode);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bar,
    Lines(Duration),
    Silent,
}

impl Progress {
    /// A bar if stderr is a terminal, else periodic lines; nothing if `wanted` is false. Where the log is JSON there are
    /// lines even on a terminal, because a bar would stand between the records.
    #[must_use]
    pub fn new(wanted: bool, json_log: bool) -> Self {
        Self(match (wanted, std::io::stderr().is_terminal() && !json_log) {
            (false, _) => Mode::Silent,
            (true, true) => Mode::Bar,
            (true, false) => Mode::Lines(LINE_EVERY),
        })
    }

    /// Shows nothing; for tests and dry runs.
    #[must_use]
    pub const fn silent() -> Self {
        Self(Mode::Silent)
    }

    /// Whether progress goes to the log rather than to a bar.
    #[must_use]
    pub const fn writes_lines(self) -> bool {
        matches!(self.0, Mode::Lines(_))
    }

    /// Starts to show a job. `total_bytes` may come later by [`Bar::set_total`].
    #[must_use]
    pub fn start(&self, what: &str, total_bytes: Option<u64>) -> Bar {
        let state = Arc::new(State {
            what: escape(&redact(what)),
            done: AtomicU64::new(0),
            total: AtomicU64::new(UNKNOWN),
            note: Mutex::default(),
            finished: Mutex::new(false),
            wake: Condvar::new(),
            started: Instant::now(),
        });
        let (bar, lines) = match self.0 {
            Mode::Bar => (Some(draw(&state.what)), None),
            Mode::Lines(every) => (None, log_lines(Arc::clone(&state), every)),
            Mode::Silent => (None, None),
        };
        let inner = Inner { state, bar, lines: Mutex::new(lines) };
        let bar = Bar(Arc::new(inner));
        if let Some(total) = total_bytes {
            bar.set_total(total);
        }
        bar
    }
}

/// A job being shown. Clones show the same job, from any thread; it ends with [`Bar::finish`] or with its last clone.
#[derive(Clone)]
pub struct Bar(Arc<Inner>);

struct Inner {
    state: Arc<State>,
    bar: Option<ProgressBar>,
    lines: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    what: String,
    done: AtomicU64,
    total: AtomicU64,
    note: Mutex<String>,
    finished: Mutex<bool>,
    wake: Condvar,
    started: Instant,
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bar({})", self.0.state.line())
    }
}

impl Bar {
    /// Counts bytes as done: one atomic addition, two with a bar.
    pub fn add_bytes(&self, number: u64) {
        self.0.state.done.fetch_add(number, Ordering::Relaxed);
        if let Some(bar) = &self.0.bar {
            bar.inc(number);
        }
    }

    /// Says how many bytes there are in all, once that is known; it may change later.
    pub fn set_total(&self, total: u64) {
        self.0.state.total.store(total, Ordering::Relaxed);
        if let Some(bar) = &self.0.bar {
            bar.set_length(total);
            bar.set_style(style(true));
        }
    }

    /// Whether a person watches it move, so that an estimate of the end is worth some work.
    #[must_use]
    pub fn is_drawn(&self) -> bool {
        self.0.bar.is_some()
    }

    /// Shows what is being done now, such as `uploading`. Names of files go through [`super::display_path`] first.
    pub fn note(&self, note: &str) {
        let note = escape(&redact(note));
        if let Some(bar) = &self.0.bar {
            bar.set_message(note.clone());
        }
        *self.0.state.note.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }

    /// Ends the job and removes its bar. Calling it again does nothing.
    pub fn finish(&self) {
        self.0.finish();
    }
}

impl Inner {
    fn finish(&self) {
        *self.state.finished.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.wake.notify_all();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = lines {
            // It only waits and logs; if it panicked there is nothing to save.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.finish();
    }
}

impl State {
    /// `snapshot: 1.2 GiB of 3.4 GiB (35%), 45.0 MiB/s, 48m 2s left (uploading)`.
    fn line(&self) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        let elapsed = self.started.elapsed().as_millis().max(1);
        let rate = u64::try_from(u128::from(done) * 1000 / elapsed).unwrap_or(u64::MAX);
        let mut line = format!("{}: {}", self.what, bytes(done));
        if total != UNKNOWN {
            let percent = if total == 0 { 100 } else { u128::from(done) * 100 / u128::from(total) };
            line.push_str(&format!(" of {} ({percent}%)", bytes(total)));
        }
        line.push_str(&format!(", {}/s", bytes(rate)));
        if let (false, Some(left)) = (total == UNKNOWN, total.saturating_sub(done).checked_div(rate)) {
            line.push_str(&format!(", {} left", duration(Duration::from_secs(left))));
        }
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        if !note.is_empty() {
            line.push_str(&format!(" ({note})"));
        }
        line
    }

    /// Waits; true when the job is over.
    fn wait(&self, length: Duration) -> bool {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(finished, length, |finished| !*finished);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn draw(what: &str) -> ProgressBar {
    let bar = super::bars().add(ProgressBar::no_length());
    bar.set_style(style(false));
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// The layout of a bar. A template that does not parse would be a bug; the plain default is shown then, not a panic.
fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{prefix} [{bar:24}] {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec}, {eta} left {msg}"
    } else {
        "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec} {msg}"
    };
    let plain = if with_total { ProgressStyle::default_bar() } else { ProgressStyle::default_spinner() };
    plain.clone().template(template).map_or(plain, |style| style.progress_chars("=> "))
}

/// A thread of its own, so that a job that stands still says so too.
fn log_lines(state: Arc<State>, every: Duration) -> Option<JoinHandle<()>> {
    let work = move || {
        while !state.wait(every) {
            tracing::info!(target: PROGRESS_TARGET, "{}", state.line());
        }
    };
    // Without the thread the job only goes on unseen.
    std::thread::Builder::new().name("progress".into()).spawn(work).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_add_up_and_the_line_says_where_the_job_stands() {
        let bar = Progress::silent().start("snapshot", Some(4_000_000));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let bar = bar.clone();
                scope.spawn(move || (0..1000).for_each(|_| bar.add_bytes(500)));
            }
        });
        bar.note("up\u{1b}loading");
        let line = bar.0.state.line();
        assert!(line.starts_with("snapshot: 1.9 MiB of 3.8 MiB (50%), "), "{line}");
        assert!(line.ends_with("(up\\x1bloading)"), "{line}");
        bar.finish();
        bar.finish();
    }

    #[test]
    fn odd_totals_do_not_panic() {
        for (total, done) in [(None, 0), (Some(0), 0), (Some(0), 5), (Some(5), u64::MAX), (Some(u64::MAX), 1)] {
            let bar = Progress::silent().start("x", total);
            bar.add_bytes(done);
            assert!(!bar.0.state.line().is_empty());
        }
    }

    #[test]
    fn lines_stop_at_once_when_the_job_ends() {
        let bar = Progress(Mode::Lines(Duration::from_secs(3600))).start("x", None);
        let started = Instant::now();
        drop(bar);
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn both_templates_parse() {
        for template in [true, false] {
            drop(style(template));
        }
        let bar = Progress(Mode::Bar).start("x", None);
        bar.set_total(10);
        bar.add_bytes(3);
    }
}
