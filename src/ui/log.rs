//! The log on stderr: one line an event, as text or as JSON with the run's id.
//!
//! Why not the formatters of `tracing_subscriber`: every record must carry the run id whatever thread wrote it, and every
//! text must pass the same escaping and blanking as the rest of the output.
//!
//! Invariant: libraries below opsctl never log at `debug` or finer, for there they may print request headers.

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI8, Ordering};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::output::shown_safely;
use super::text::{escape, redact};

/// The target of progress lines, shown by default where no bar can be drawn.
pub(crate) const PROGRESS_TARGET: &str = "opsctl::progress";

/// The target of what `say` says: shown unless `-q` was given, as it is where logs are text.
pub(super) const SAY_TARGET: &str = "opsctl::say";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line, with `time`, `level`, `run_id`, `target` and `message`.
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();
static VERBOSITY: AtomicI8 = AtomicI8::new(0);

pub(super) fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

pub(super) fn shows_warnings() -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= 0
}

/// Starts logging to stderr, once for the process; a second call changes nothing but the verbosity.
///
/// `verbosity` counts `-v` up and `-q` down: 0 shows warnings. `progress` adds the periodic progress lines.
pub fn init_logging(format: LogFormat, run_id: &str, verbosity: i8, progress: bool) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
    if FORMAT.set(format).is_err() {
        return;
    }
    let formatter = Lines { format, run_id: run_id.to_owned() };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(verbosity, progress)))
        .with_writer(StderrLines)
        .event_format(formatter)
        .try_init();
}

/// The filter for a verbosity. Other crates stay at `info` at most: their finer levels may print credentials.
fn directives(verbosity: i8, progress: bool) -> String {
    let (own, others) = match verbosity {
        i8::MIN..=-2 => ("off", "off"),
        -1 => ("error", "error"),
        0 => ("warn", "warn"),
        1 => ("info", "warn"),
        2 => ("debug", "warn"),
        _ => ("trace", "info"),
    };
    let progress = if progress && verbosity >= 0 { format!(",{PROGRESS_TARGET}=info") } else { String::new() };
    let say = if verbosity >= 0 { format!(",{SAY_TARGET}=info") } else { String::new() };
    format!("{others},opsctl={own}{say}{progress}")
}

/// Writes each record in one piece, above the progress bars.
struct StderrLines;

impl<'a> MakeWriter<'a> for StderrLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl io::Write for StderrLines {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        super::write_stderr(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The layout of a record.
struct Lines {
    format: LogFormat,
    run_id: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let now = jiff::Timestamp::now();
        writeln!(writer, "{}", self.line(now, metadata.level(), metadata.target(), fields.0))
    }
}

impl Lines {
    fn line(
        &self,
        now: jiff::Timestamp,
        level: &tracing::Level,
        target: &str,
        mut fields: Map<String, Value>,
    ) -> String {
        let level = level.as_str().to_ascii_lowercase();
        let message = fields.remove("message").map(plain).unwrap_or_default();
        match self.format {
            LogFormat::Text => {
                let mut line = format!("{now:.0} {level}: {}", escape(&message));
                for (name, value) in fields {
                    line.push_str(&format!(" {name}={}", escape(&plain(value))));
                }
                line
            }
            LogFormat::Json => {
                let mut record = Map::new();
                for (name, value) in [
                    ("time", now.to_string()),
                    ("level", level),
                    ("run_id", self.run_id.clone()),
                    ("target", target.to_owned()),
                    ("message", message),
                ] {
                    record.insert(name.to_owned(), Value::String(value));
                }
                for (name, value) in fields {
                    record.entry(name).or_insert(value);
                }
                shown_safely(Value::Object(record).to_string())
            }
        }
    }
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Collects the fields of an event, secrets blanked.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(redact(&format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(redact(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("message".into(), "read \u{1b}[31m".into());
        fields.insert("files".into(), 3.into());
        fields.insert("run_id".into(), "forged".into());
        fields
    }

    #[test]
    fn a_json_record_carries_the_run_id_and_cannot_be_forged() {
        let lines = Lines { format: LogFormat::Json, run_id: "r1".into() };
        let text = lines.line(jiff::Timestamp::UNIX_EPOCH, &tracing::Level::WARN, "opsctl::x", fields());
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record["run_id"], "r1");
        assert_eq!(record["level"], "warn");
        assert_eq!(record["files"], 3);
        assert_eq!(record["time"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn no_json_record_writes_to_the_terminal() {
        let lines = Lines { format: LogFormat::Json, run_id: "r1".into() };
        let hostile = "\u{7f} \u{9b}31m \u{202e}txt \u{2066} \u{1b}[0m";
        let fields = Map::from_iter(["message", "cause"].map(|name| (name.to_owned(), hostile.into())));
        let text = lines.line(jiff::Timestamp::UNIX_EPOCH, &tracing::Level::WARN, "opsctl::x", fields);
        assert!(text.is_ascii() && !text.contains(char::is_control), "{text:?}");
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&record["message"], &record["cause"]), (&hostile.into(), &hostile.into()));
    }

    #[test]
    fn a_text_record_is_one_escaped_line() {
        let lines = Lines { format: LogFormat::Text, run_id: "r1".into() };
        let text = lines.line(jiff::Timestamp::UNIX_EPOCH, &tracing::Level::WARN, "opsctl::x", fields());
        assert!(text.starts_with("1970-01-01T00:00:00Z warn: read \\x1b[31m files=3"), "{text}");
    }

    #[test]
    fn no_verbosity_opens_other_crates_below_info() {
        for verbosity in i8::MIN..=i8::MAX {
            let text = directives(verbosity, true);
            let others = text.split(',').next().unwrap();
            assert!(["off", "error", "warn", "info"].contains(&others), "{text}");
        }
        assert_eq!(directives(0, true), "warn,opsctl=warn,opsctl::say=info,opsctl::progress=info");
        assert_eq!(directives(-1, true), "error,opsctl=error");
    }
}
