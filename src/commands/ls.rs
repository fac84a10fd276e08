//! `opsctl ls`: the paths of a snapshot.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::Session;
use super::reading::{ReadArgs, Reading};
use crate::archive::entry::{Entry, Kind};
use crate::archive::path::EntryPath;
use crate::repository::rows::EntryRow;
use crate::repository::{Purpose, Which};
use crate::ui::{self, Output};
use crate::{Error, ExitCode, Result};

/// Text is written in pieces of about this many bytes.
const WRITE_AT: usize = 64 << 10;

/// List the paths of a snapshot
///
/// Example: opsctl ls latest workspace -l --store s3://backups/web --identity web.identity
///
/// Exit codes: 0 ok, 2 usage, 4 damaged or untrusted, 10 no such snapshot or
/// path, 12 wrong or missing key
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct LsArgs {
    /// Id, the start of one, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Only this path and what is below
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// With mode, owner, size and time
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    read: ReadArgs,
}

/// What stands before the entries.
#[derive(Serialize)]
struct Head<'a> {
    snapshot_id: &'a str,
}

/// What stands behind them.
#[derive(Serialize)]
struct Tail {}

/// The result of `ls`. It is written piece by piece; this is its schema.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct LsReport {
    /// The snapshot.
    pub snapshot_id: String,
    /// Its paths in order.
    pub entries: Vec<EntryRow>,
}

pub(super) fn run(args: &LsArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let reading = Reading::open(session, &args.read.trust, Purpose::Content)?;
    let identities = reading.need_identities()?;
    let listing = reading.listing(session)?;
    let snapshot = reading.choose(session, &listing, &Which::Id(args.snapshot.clone()))?;
    let below = args.path.as_deref().map(parse_path).transpose()?;
    let manifest = session.block(reading.repository.manifest(snapshot, identities, &session.cancel))?;
    let head = Head { snapshot_id: snapshot.id.as_str() };
    let (mut found, mut text) = (false, String::new());
    let json = out.is_json();
    let each = |entry: Entry| -> Result<()> {
        // A read of one subtree also gives the directories above it.
        if below.as_ref().is_some_and(|path| !entry.path.is_within(path)) {
            return Ok(());
        }
        if json {
            if !found {
                out.begin_list(&head, "entries")?;
            }
            found = true;
            out.list_item(&EntryRow::from(&entry))?;
            return go_on(out);
        }
        found = true;
        text.push_str(&if args.long { long_line(&entry) } else { name(&entry) });
        text.push('\n');
        if text.len() >= WRITE_AT {
            out.raw(std::mem::take(&mut text).as_bytes())?;
        }
        go_on(out)
    };
    let subtrees = below.as_ref().map(std::slice::from_ref);
    let read = session.block(manifest.entries(subtrees, each));
    if out.is_closed() {
        return Ok(ExitCode::Ok);
    }
    read?;
    out.raw(text.as_bytes())?;
    if !found {
        let path = args.path.as_deref().unwrap_or_default();
        return Err(Error::new(ExitCode::NotFound, format!("snapshot {} has no path {path:?}", snapshot.id)));
    }
    out.end_list(&Tail {})?;
    Ok(ExitCode::Ok)
}

/// Ends the reading if nobody reads the result any more.
pub(super) fn go_on(out: &Output) -> Result<()> {
    if out.is_closed() { Err(Error::interrupted()) } else { Ok(()) }
}

/// A path as people type it: from the captured folder, with or without slashes around it.
pub(super) fn parse_path(text: &str) -> Result<EntryPath> {
    let trimmed = text.trim_start_matches("./").trim_matches('/');
    let trimmed = if trimmed == "." { "" } else { trimmed };
    EntryPath::new(trimmed.as_bytes().to_vec()).map_err(|e| Error::usage(e.to_string()))
}

fn name(entry: &Entry) -> String {
    let path = entry.path.as_bytes();
    let mut text = ui::display_path(if path.is_empty() { b"." } else { path });
    if entry.kind == Kind::Symlink {
        text.push_str(" -> ");
        text.push_str(&ui::display_path(&entry.target));
    }
    if let Some(reason) = &entry.missing {
        text.push_str(&format!("  [not captured: {}]", ui::escape(reason)));
    }
    if let Some(reason) = &entry.excluded {
        text.push_str(&format!("  [left out: {}]", ui::escape(reason)));
    }
    text
}

fn long_line(entry: &Entry) -> String {
    let time = Timestamp::new(entry.mtime.0, i32::try_from(entry.mtime.1).unwrap_or(0));
    let time = time.map_or_else(|_| format!("{}", entry.mtime.0), |t| t.strftime("%Y-%m-%d %H:%M:%S").to_string());
    format!(
        "{}{} {:>5} {:>5} {:>12} {time} {}",
        letter(entry.kind),
        permissions(entry.mode),
        entry.uid,
        entry.gid,
        entry.size,
        name(entry),
    )
}

const fn letter(kind: Kind) -> char {
    match kind {
        Kind::Dir => 'd',
        Kind::File => '-',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::Char => 'c',
        Kind::Block => 'b',
    }
}

/// `rwxr-x---`, with setuid, setgid and sticky as `ls -l` shows them.
fn permissions(mode: u32) -> String {
    let mut text: Vec<char> =
        (0..9).map(|n| if mode & (0o400 >> n) == 0 { '-' } else { ['r', 'w', 'x'][n % 3] }).collect();
    for (bit, at, set, unset) in [(0o4000, 2, 's', 'S'), (0o2000, 5, 's', 'S'), (0o1000, 8, 't', 'T')] {
        if mode & bit != 0 {
            text[at] = if text[at] == 'x' { set } else { unset };
        }
    }
    text.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_like_those_of_ls() {
        for (mode, text) in [
            (0o755, "rwxr-xr-x"),
            (0o4711, "rws--x--x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0, "---------"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }

    #[test]
    fn paths_are_taken_as_people_type_them() {
        for text in ["a/b", "/a/b/", "./a/b"] {
            assert_eq!(parse_path(text).unwrap().as_bytes(), b"a/b");
        }
        assert!(parse_path("a/../b").is_err());
        assert_eq!(parse_path("/").unwrap(), EntryPath::root());
    }
}
