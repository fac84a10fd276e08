//! Keeps foreign names out of listings.
//!
//! `object_store` ends a whole LIST at the first name that it cannot express, such as `a//b`, a control character, or on
//! a file system bytes that are not UTF-8. Whoever may write one object could so keep everybody from reading all others.
//! Nothing of ours has such a name, so these objects are named in the log and left out: [`tolerable`] does it to the
//! answers of servers before they are parsed, [`walk`] reads a directory in place of `object_store`.
//!
//! Invariants:
//! * A name that is let through is exactly the name that `object_store` makes of it: it never stands for another object.
//! * Everything else in an answer stays byte for byte as it was.

use std::fs;
use std::io;
use std::path::{Path as FilePath, PathBuf};

use object_store::path::Path;

use super::ObjectInfo;
use super::error::{StoreError, from_io};

/// Names of one listing that are logged one by one; of the rest only the number.
const NAMED: usize = 5;

/// Whether the query of a request is that of a LIST, and then the names of the element and of the name in it.
pub(super) fn elements(query: &str) -> Option<(&'static str, &'static str)> {
    query.split('&').find_map(|parameter| match parameter {
        "list-type=2" => Some(("Contents", "Key")),
        "comp=list" => Some(("Blob", "Name")),
        _ => None,
    })
}

/// Whether a page of a LIST is one, from its first tag to its last. `object_store` takes any XML for a listing, and finds no
/// objects in a page that says `<Error>`.
pub(super) fn is_whole(page: &[u8], (element, _): (&str, &str)) -> bool {
    let root = if element == "Blob" { "EnumerationResults" } else { "ListBucketResult" };
    find(page, format!("<{root}").as_bytes()).is_some() && find(page, format!("</{root}>").as_bytes()).is_some()
}

/// A page of a LIST without the objects whose names `object_store` cannot express. `None` if there are none.
pub(super) fn tolerable(body: &[u8], (element, name): (&str, &str)) -> Option<Vec<u8>> {
    // No server of note writes names in this way, and then an end tag may be part of a name.
    if find(body, b"<![CDATA[").is_some() {
        return None;
    }
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let mut kept = Vec::with_capacity(body.len());
    let mut foreign = Vec::new();
    let mut rest = body;
    while let Some(start) = find(rest, open.as_bytes()) {
        let Some(length) = find(&rest[start..], close.as_bytes()) else { break };
        let end = start + length + close.len();
        kept.extend_from_slice(&rest[..start]);
        match foreign_name(&rest[start + open.len()..start + length], name) {
            Some(text) => foreign.push(text),
            None => kept.extend_from_slice(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    if foreign.is_empty() {
        return None;
    }
    kept.extend_from_slice(rest);
    report(&foreign);
    Some(kept)
}

/// The name in an element, for the log, if it is not one that can be ours.
fn foreign_name(element: &[u8], tag: &str) -> Option<String> {
    let start = find(element, format!("<{tag}").as_bytes())? + tag.len() + 1;
    let start_end = start + find(&element[start..], b">")?;
    let end = start_end + find(&element[start_end..], b"</")?;
    let raw = &element[start_end + 1..end];
    // Azure says so of names that XML cannot hold.
    let is_plain = start == start_end;
    let text = std::str::from_utf8(raw).ok().filter(|_| is_plain).and_then(unescape);
    match text {
        Some(text) if is_key(&text) => None,
        _ => Some(String::from_utf8_lossy(raw).escape_debug().to_string()),
    }
}

/// Whether this can be the name of an object of ours: every kind of store keeps it, and lists it as it is.
pub(super) fn is_key(name: &str) -> bool {
    !name.is_empty()
        && name.trim() == name
        // Azure takes it for a slash.
        && !name.contains('\\')
        && !is_half_written(name)
        && Path::parse(name).is_ok_and(|path| path.as_ref() == name)
}

/// XML text without its references; `None` if one of them is none.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        let (reference, later) = after.split_once(';')?;
        plain.push_str(before);
        plain.push(match reference {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        rest = later;
    }
    plain.push_str(rest);
    Some(plain)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    // Names are short and there are a thousand on a page: nothing cleverer is needed.
    let first = *what.first()?;
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == first) {
        if text[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Logs names that are left out. They come escaped.
fn report(foreign: &[String]) {
    // A folder made in a web console is an object whose name ends with a slash: nothing odd.
    let odd: Vec<&String> = foreign.iter().filter(|name| !name.ends_with('/')).collect();
    for name in odd.iter().take(NAMED) {
        tracing::warn!(object = name.as_str(), "an object that no opsctl wrote is left out: its name is not usable");
    }
    if odd.len() > NAMED {
        tracing::warn!(objects = odd.len() - NAMED, "more objects with unusable names are left out");
    }
}

/// What lies in a directory.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The objects, in no order.
    pub(super) objects: Vec<ObjectInfo>,
    /// The names that are left out, escaped.
    pub(super) foreign: Vec<String>,
}

/// The files below `folder` of the store in `root`. Symbolic links are followed, except in circles.
pub(super) fn walk(root: &FilePath, folder: &str) -> Result<Walked, StoreError> {
    let mut walked = Walked::default();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let failed = |error: &io::Error| from_io(&folder.display().to_string(), error);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(failed(&error));
            }
            // Gone meanwhile, never there, or a file that stands where a folder is asked for.
            Err(_) if root.is_dir() => continue,
            // An unmounted store must not pass for an empty one.
            Err(_) => return Err(StoreError::NotFound { key: format!("file://{}", root.display()) }),
        };
        for entry in entries {
            let path = entry.map_err(|error| failed(&error))?.path();
            let Some(key) = key_of(root, &path) else {
                walked.foreign.push(path.as_os_str().as_encoded_bytes().escape_ascii().to_string());
                continue;
            };
            // A link to nowhere, or a file that is gone meanwhile.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if !leads_back(&path) {
                    folders.push(path);
                }
            } else if metadata.is_file() {
                walked.objects.push(ObjectInfo { key, size: metadata.len(), modified: modified(&metadata) });
            }
        }
    }
    report(&walked.foreign);
    Ok(walked)
}

/// When a store that is a directory received an object. A time beyond the calendar is nobody's: it counts as the
/// latest, which no receipt can claim.
pub(super) fn modified(metadata: &fs::Metadata) -> jiff::Timestamp {
    let modified = metadata.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    modified.unwrap_or(jiff::Timestamp::MAX)
}

/// The key of a file, if it has a name that one of ours can have.
fn key_of(root: &FilePath, path: &FilePath) -> Option<String> {
    let key = path.strip_prefix(root).ok()?.to_str()?;
    is_key(key).then(|| key.to_owned())
}

/// Whether a directory is a link to one that it lies in.
fn leads_back(path: &FilePath) -> bool {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    let real = |path: &FilePath| -> Option<PathBuf> { fs::canonicalize(path).ok() };
    is_link && path.parent().and_then(real).zip(real(path)).is_none_or(|(parent, target)| parent.starts_with(target))
}

/// `object_store` writes `name#1` first, then renames it.
fn is_half_written(key: &str) -> bool {
    key.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3: (&str, &str) = ("Contents", "Key");

    fn page(keys: &[&str]) -> String {
        let each: String =
            keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
        format!("<ListBucketResult><Name>b</Name>{each}<IsTruncated>false</IsTruncated></ListBucketResult>")
    }

    #[test]
    fn only_names_that_cannot_be_ours_are_left_out() {
        let odd = [
            "snapshots//x",
            "a/&#x1;b",
            "a/&#0;",
            "a/../b",
            "./a",
            "/packs/x",
            "packs/x/",
            " packs/x",
            "a&broken",
            "a\u{1}",
            "a&#xD;",
            "packs\\x",
            "packs/x#12",
            "",
        ];
        let good = ["packs/ab/1", "a&amp;b&lt;c", "a b", "caf\u{e9}&#233;", "-", "a#1/b", "#x"];
        for name in odd {
            let mixed = page(&[good[0], name, good[1]]);
            let kept = tolerable(mixed.as_bytes(), S3).unwrap();
            assert_eq!(String::from_utf8(kept).unwrap(), page(&good[..2]), "{name:?}");
        }
        assert_eq!(tolerable(page(&good).as_bytes(), S3), None);
        assert_eq!(tolerable(b"<Contents><Key>a//b", S3), None, "cut off: the parser says so");
        let bytes = [b"<Contents><Key>\xff</Key></Contents>".as_slice(), page(&good).as_bytes()].concat();
        assert_eq!(tolerable(&bytes, S3).unwrap(), page(&good).as_bytes());
    }

    #[test]
    fn azure_is_understood_too() {
        let page = "<Blobs><Blob><Name>a</Name><P/></Blob><Blob><Name Encoded=\"true\">a%2F</Name></Blob></Blobs>";
        let kept = tolerable(page.as_bytes(), elements("restype=container&comp=list&prefix=x").unwrap()).unwrap();
        assert_eq!(kept, b"<Blobs><Blob><Name>a</Name><P/></Blob></Blobs>");
        assert_eq!(elements("list-type=2&prefix=a"), Some(S3));
        assert_eq!(elements("x-list-type=2"), None);
    }
}
