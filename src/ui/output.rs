//! Standard output: the result of a command, as text or as one JSON document. A long list in a document is written
//! while it is made ([`Output::begin_list`]), so that it never has to be in memory.
//!
//! Invariant: no hidden value is written, and a document without one is still a document.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

use super::text::{escape, reorders};
use crate::error::{Context as _, Error, Result};
use crate::secret::{self, blank};

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
    /// What of a list under way is not written yet, and whether it has items.
    list: (Vec<u8>, bool),
}

/// A list is written in pieces of about this many bytes.
const WRITE_AT: usize = 64 << 10;

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
        Self { sink, json, width: None, closed: false, documents: 0, list: (Vec::new(), false) }
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

    /// Writes text for people; in JSON mode nothing. A missing line feed at the end is added. Whatever a terminal would
    /// obey is escaped: the last net, for a text from elsewhere that nobody thought of.
    pub fn text(&mut self, text: &str) -> Result<()> {
        if self.json || text.is_empty() {
            return Ok(());
        }
        let text = blank(text);
        let lines: Vec<String> = text.trim_end_matches('\n').split('\n').map(escape).collect();
        self.write(format!("{}\n", lines.join("\n")).as_bytes())
    }

    /// Writes the one JSON document; in text mode nothing.
    pub fn document<T: Serialize + ?Sized>(&mut self, document: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut text = pretty(document)?;
        text.push('\n');
        self.documents += 1;
        self.write(text.as_bytes())
    }

    /// Begins the one JSON document with the members of `head` and then a list; in text mode nothing. Then come
    /// [`Output::list_item`] and, once, [`Output::end_list`]. If the command fails in between, the document stays cut
    /// off: no parser takes that for a result.
    pub fn begin_list<T: Serialize>(&mut self, head: &T, name: &str) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let head = pretty(head)?;
        let members = head.trim_end_matches('}').trim_end();
        let comma = if members.len() > 1 { "," } else { "" };
        self.documents += 1;
        self.list = (format!("{members}{comma}\n  \"{name}\": [").into_bytes(), false);
        Ok(())
    }

    /// Adds an item to the list; in text mode nothing.
    pub fn list_item<T: Serialize>(&mut self, item: &T) -> Result<()> {
        if !self.json || self.closed {
            return Ok(());
        }
        let item = serde_json::to_string(item).map(safe).map_err(not_json)?;
        let (buffer, has_items) = &mut self.list;
        buffer.extend_from_slice(if *has_items { b",\n    " } else { b"\n    " });
        buffer.extend_from_slice(item.as_bytes());
        *has_items = true;
        if buffer.len() < WRITE_AT {
            return Ok(());
        }
        let piece = std::mem::take(buffer);
        self.write(&piece)
    }

    /// Ends list and document with the members of `tail`; in text mode nothing.
    pub fn end_list<T: Serialize>(&mut self, tail: &T) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let tail = pretty(tail)?;
        let members = tail.trim_start_matches('{');
        let (mut text, has_items) = std::mem::take(&mut self.list);
        text.extend_from_slice(if has_items { b"\n  ]" } else { b"]" });
        text.extend_from_slice(if members == "}" { b"\n" } else { b"," });
        text.extend_from_slice(members.as_bytes());
        text.push(b'\n');
        self.write(&text)
    }

    /// Whether the reader went away: nothing that is written from now on reaches anybody.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes text as it is but for hidden values, whatever the mode: completion scripts, manual pages, help, lists of
    /// escaped lines. What is no text is a bug of the caller, and shown as such.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        if secret::is_any() {
            return self.write(blank(&String::from_utf8_lossy(bytes)).as_bytes());
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
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

fn pretty<T: Serialize + ?Sized>(document: &T) -> Result<String> {
    serde_json::to_string_pretty(document).map(safe).map_err(not_json)
}

fn not_json(error: serde_json::Error) -> Error {
    Error::new(crate::ExitCode::Failed, "making the JSON document").because(error)
}

/// The same JSON, safe to show.
fn safe(json: String) -> String {
    shown_safely(if secret::is_any() { blanked(&json, blank) } else { json })
}

/// The same JSON without hidden values in its texts, and so still JSON: as a whole it could lose a quote or a number to a
/// value that looks like one.
fn blanked(json: &str, blank: impl Fn(&str) -> Cow<'_, str>) -> String {
    let mut shown = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, text)) = rest.split_once('"') {
        let mut is_escaped = false;
        let end = text.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        let (inside, after) = text.split_at(end.unwrap_or(text.len()));
        rest = after.strip_prefix('"').unwrap_or_default();
        shown.push_str(before);
        // The names of our own members are no secrets, whatever somebody has for a password.
        let is_our_name = rest.starts_with(':') && inside.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let whole = format!("\"{inside}\"");
        let read: Option<String> = serde_json::from_str(&whole).ok().filter(|_| !is_our_name);
        match read.as_deref().map(&blank) {
            Some(Cow::Owned(safe)) => shown.push_str(&serde_json::Value::String(safe).to_string()),
            _ => shown.push_str(&whole),
        }
    }
    shown.push_str(rest);
    shown
}

/// The same JSON without what a terminal would obey: `serde_json` writes DEL, the C1 controls and what reorders a line as
/// they are. They can stand in strings only, and none is above U+FFFF.
pub(super) fn shown_safely(json: String) -> String {
    let is_obeyed = |character: char| matches!(character, '\u{7f}'..='\u{9f}') || reorders(character);
    if !json.contains(is_obeyed) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_obeyed(character) {
            safe.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            safe.push(character);
        }
    }
    safe
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

    #[test]
    fn a_streamed_list_is_the_document_that_it_would_be_at_once() {
        for (head, items, tail) in [
            (
                serde_json::json!({"a": 1}),
                vec![serde_json::json!({"x": "\u{9b}31m"}), "2".into()],
                serde_json::json!({"n": 2}),
            ),
            (serde_json::json!({"a": 1}), vec![], serde_json::json!({})),
            (serde_json::json!({}), (0..20_000).map(|n| n.into()).collect(), serde_json::json!({})),
        ] {
            let sink = Captured::default();
            let mut output = Output::to(Box::new(sink.clone()), true);
            output.begin_list(&head, "items").unwrap();
            items.iter().for_each(|item: &serde_json::Value| output.list_item(item).unwrap());
            let before_end = sink.text().len();
            output.end_list(&tail).unwrap();
            let mut expected = head.as_object().unwrap().clone();
            assert_eq!(before_end > 0, items.len() > 1000, "long lists do not wait for their end");
            expected.insert("items".into(), items.into());
            expected.extend(tail.as_object().unwrap().clone());
            let text = sink.text();
            assert!(text.ends_with("}\n") && output.has_document());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), serde_json::Value::Object(expected));
        }
    }

    #[test]
    fn json_holds_nothing_that_a_terminal_obeys() {
        let sink = Captured::default();
        let text = "a\u{7f}\u{9b}31m\u{80}\u{1b}é\u{202e}";
        Output::to(Box::new(sink.clone()), true).document(&text).unwrap();
        assert_eq!(sink.text(), "\"a\\u007f\\u009b31m\\u0080\\u001bé\\u202e\"\n");
        assert_eq!(serde_json::from_str::<String>(&sink.text()).unwrap(), text);
    }

    #[test]
    fn a_document_loses_hidden_values_and_nothing_else() {
        const VALUE: &str = "Doc\"4711\\nQ,é";
        // Two that look like pieces of a document, one that begins in the middle of an escape, and one like a name of ours.
        fn blank(text: &str) -> Cow<'_, str> {
            let values = [VALUE, "\",\"list\":[1234567", "1234567", "nDoc", "a_member"];
            Cow::Owned(values.iter().fold(text.to_owned(), |text, value| text.replace(value, "…")))
        }
        let document = serde_json::json!({
            "a": format!("is {VALUE}!"), "number": 1_234_567, "list": ["", "1234567", "\nDoc", "\\", "\\nDoc"],
            format!("key {VALUE}"): {"b": [true, null, 1.5, "x\u{9b}"]}, "a_member": "a_member",
        });
        let want = serde_json::json!({
            "a": "is …!", "number": 1_234_567, "list": ["", "…", "\nDoc", "\\", "\\…"],
            "key …": {"b": [true, null, 1.5, "x\u{9b}"]}, "a_member": "…",
        });
        for json in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&blanked(&json, blank)).unwrap(), want);
            assert_eq!(blanked(&json, |text| Cow::Borrowed(text)), json);
        }
    }

    #[test]
    fn a_writer_learns_that_its_reader_went_away() {
        let mut output = Output::to(Box::new(Failing(io::ErrorKind::BrokenPipe)), true);
        output.begin_list(&serde_json::json!({}), "items").unwrap();
        assert!(!output.is_closed());
        (0..20_000).for_each(|n| output.list_item(&n).unwrap());
        assert!(output.is_closed());
        output.end_list(&serde_json::json!({})).unwrap();
    }
}
