//! Whether a JSON file holds what the service looks for in it.
//!
//! Why: a service that finds nothing where its list should be takes that for an empty list, and writes over it.
//!
//! Invariant: what is said of a file is a place in it, never a part of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::value::RawValue;

use crate::config::profile::JsonType;
use crate::ui;

/// A JSON file that a service keeps whole in memory is never larger.
const MAX_JSON: u64 = 64 << 20;

/// Why the file does not hold what it must: by JSON pointer, the type of what is there.
pub(super) fn fault(path: &Path, holds: &BTreeMap<String, JsonType>) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_JSON {
        return Err(format!("it is larger than {}", ui::bytes(MAX_JSON)));
    }
    let whole: &RawValue = serde_json::from_slice(&text)
        .map_err(|error| format!("no JSON from line {}, column {} on", error.line(), error.column()))?;
    // Every such file is an object or a list: a lone `null` holds as little as an empty file does.
    if !matches!(JsonType::of(whole.get()), JsonType::Object | JsonType::Array) {
        return Err("it holds no object".to_owned());
    }
    let wrong =
        holds.iter().find(|(pointer, kind)| at(whole, pointer).map(|found| JsonType::of(found.get())) != Some(**kind));
    wrong.map_or(Ok(()), |(pointer, kind)| {
        let place = if pointer.is_empty() { String::new() } else { format!(" at {pointer}") };
        Err(format!("it holds no {}{place}", kind.name()))
    })
}

/// What is at a JSON pointer, which leads through objects only.
fn at<'t>(whole: &'t RawValue, pointer: &str) -> Option<&'t RawValue> {
    pointer.split('/').skip(1).try_fold(whole, |value, key| {
        let mut object: HashMap<String, &RawValue> = serde_json::from_str(value.get()).ok()?;
        object.remove(&key.replace("~1", "/").replace("~0", "~"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_it_must_or_it_is_said_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.json");
        let fault = |text: &str, holds: &[(&str, JsonType)]| {
            std::fs::write(&path, text).unwrap();
            let holds = holds.iter().map(|(at, kind)| ((*at).to_owned(), *kind)).collect();
            fault(&path, &holds).err().unwrap_or_default()
        };
        let tokens = [("/tokens", JsonType::Array)];
        assert_eq!(fault(r#" {"tokens" : [ ] } "#, &tokens), "");
        for text in ["{}", "[]", r#"{"tokens":{}}"#, r#"{"tokens":null}"#, r#"{"other":{"tokens":[]}}"#] {
            assert_eq!(fault(text, &tokens), "it holds no array at /tokens", "{text}");
        }
        assert_eq!(fault("[]", &[("", JsonType::Object)]), "it holds no object");
        assert_eq!(fault("[]", &[]), "");
        assert_eq!(fault(r#"{"a/b":{"c~":"x"}}"#, &[("/a~1b/c~0", JsonType::String)]), "");
        for (text, kind) in [("-1", JsonType::Number), ("true", JsonType::Boolean), ("\"\"", JsonType::String)] {
            assert_eq!(fault(&format!(r#"{{"a": {text}}}"#), &[("/a", kind)]), "");
            assert_eq!(fault(text, &[]), "it holds no object");
        }
        let broken = fault(r#"{"tokens":["secret""#, &tokens);
        assert!(broken.starts_with("no JSON from line 1") && !broken.contains("secret"), "{broken}");
    }
}
