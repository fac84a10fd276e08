//! Standard output: the result of a command, as text or as one JSON document.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

use crate::error::{Context as _, Error, Result};

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// The decision for a stream. `no_color` is whether the variable `NO_COLOR` is set to anything.
    #[must_use]
    pub const fn decide(self, is_terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && !no_color,
        }
    }
}

/// The stream that carries the result.
///
/// Invariants: in JSON mode exactly one document is written and no text; in text mode no document. A reader that went
/// away makes every later write a silent success, so that the command still finishes with its own exit code.
pub struct Output {
    sink: Box<dyn Write + Send>,
    json: bool,
    width: Option<u16>,
    closed: bool,
    documents: usize,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("json", &self.json).field("width", &self.width).finish_non_exhaustive()
    }
}

impl Output {
    /// The process's standard output.
    #[must_use]
    pub fn stdout(json: bool) -> Self {
        let stdout = io::stdout();
        let width =
            if stdout.is_terminal() { rustix::termios::tcgetwinsize(&stdout).ok().map(|s| s.ws_col) } else { None };
        Self { width: width.filter(|columns| *columns >= 20), ..Self::to(Box::new(stdout), json) }
    }

    /// Any other stream, as if it were no terminal.
    #[must_use]
    pub fn to(sink: Box<dyn Write + Send>, json: bool) -> Self {
        Self { sink, json, width: None, closed: false, documents: 0 }
    }

    /// Whether the result is wanted as a JSON document.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// The width of the terminal, or `None` when stdout is none: then nothing is wrapped.
    #[must_use]
    pub const fn width(&self) -> Option<u16> {
        self.width
    }

    /// Whether the one JSON document is already out.
    #[must_use]
    pub const fn has_document(&self) -> bool {
        self.documents > 0
    }

    /// Writes the result: `document` in JSON mode, else what `text` makes for the terminal's width.
    pub fn result<T: Serialize>(&mut self, document: &T, text: impl FnOnce(Option<u16>) -> String) -> Result<()> {
        if self.json { self.document(document) } else { self.text(&text(self.width)) }
    }

    /// Writes text for people; in JSON mode nothing. A missing line feed at the end is added.
    pub fn text(&mut self, text: &str) -> Result<()> {
        if self.json || text.is_empty() {
            return Ok(());
        }
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.raw(format!("{text}{end}").as_bytes())
    }

    /// Writes the one JSON document; in text mode nothing.
    pub fn document<T: Serialize + ?Sized>(&mut self, document: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut text = serde_json::to_vec_pretty(document)
            .map_err(|error| Error::new(crate::ExitCode::Failed, "making the JSON document").because(error))?;
        text.push(b'\n');
        self.documents += 1;
        self.raw(&text)
    }

    /// Writes bytes as they are, whatever the mode: completion scripts, manual pages, help.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match self.sink.write_all(bytes).and_then(|()| self.sink.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.context(|| "writing to standard output".into()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A sink whose content a test can read afterwards.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_mode_never_writes_the_other_one() {
        for (json, want) in [(true, "{\n  \"a\": 1\n}\n"), (false, "text\n")] {
            let sink = Captured::default();
            let mut output = Output::to(Box::new(sink.clone()), json);
            output.result(&serde_json::json!({"a": 1}), |_| "text".into()).unwrap();
            if json {
                output.text("more").unwrap();
            } else {
                output.document("more").unwrap();
            }
            assert_eq!(sink.text(), want);
            assert_eq!(output.has_document(), json);
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_but_a_full_disk_is() {
        let mut output = Output::to(Box::new(Failing(io::ErrorKind::BrokenPipe)), false);
        output.text("a").unwrap();
        output.text("b").unwrap();
        let mut output = Output::to(Box::new(Failing(io::ErrorKind::StorageFull)), false);
        assert_eq!(output.text("a").unwrap_err().code(), crate::ExitCode::NoSpace);
    }

    #[test]
    fn colour_follows_the_choice_then_the_stream() {
        assert!(ColorChoice::Always.decide(false, true));
        assert!(!ColorChoice::Never.decide(true, false));
        assert!(ColorChoice::Auto.decide(true, false));
        assert!(!ColorChoice::Auto.decide(true, true) && !ColorChoice::Auto.decide(false, false));
    }
}
