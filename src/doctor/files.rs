//! Are the files and folders of the contract there, writable, and readable as what they should be? A broken one makes the
//! service lose data without a word.
//!
//! Invariant: what is advised to be given to another user is one path at or below the data root, without what is below it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

use super::locations::{is_on_volume, real};
use super::scratch::Scratch;
use super::{Request, json, timed};
use crate::capture::sqlite::{self, CaptureError, SIDE_SUFFIXES};
use crate::config::profile::{Format, JsonType};
use crate::finding::{Finding, Status};
use crate::restore::space::free_space;
use crate::ui;

/// Something that must be writable, and perhaps readable as something.
struct Subject {
    name: String,
    path: PathBuf,
    format: Option<Format>,
    holds: BTreeMap<String, JsonType>,
    note: String,
    optional: bool,
}

pub(super) fn check(request: &Request<'_>) -> Vec<Finding> {
    let Some(volume) = &request.service.volume else { return Vec::new() };
    let scratch = timed(|| scratch(request, &volume.data_root));
    let subjects = subjects(request);
    std::iter::once(scratch).chain(subjects.iter().map(|subject| timed(|| one(request, subject)))).collect()
}

/// The paths of the contract, and the files where the variables of the service put them, each once.
fn subjects(request: &Request<'_>) -> Vec<Subject> {
    let Some(volume) = &request.service.volume else { return Vec::new() };
    let durable = volume.durable.iter().map(|durable| Subject {
        name: format!("file.{}", durable.path),
        path: volume.data_root.join(&durable.path),
        format: durable.format,
        holds: durable.holds.clone(),
        note: durable.note.clone(),
        optional: durable.optional,
    });
    let mut subjects: Vec<Subject> = durable.collect();
    for location in &volume.locations {
        let Some((_, path)) = location.place(|name| request.environment.get(name)) else { continue };
        if location.format.is_none() && !is_on_volume(request, volume, location) {
            continue;
        }
        let is_known = subjects.iter().any(|subject| real(&subject.path) == real(&path));
        if path.is_absolute() && !is_known {
            let (name, note) = (format!("file.{}", location.name), location.note.clone());
            let (format, holds) = (location.format, location.holds.clone());
            subjects.push(Subject { name, path, format, holds, note, optional: true });
        }
    }
    subjects
}

fn one(request: &Request<'_>, subject: &Subject) -> Finding {
    let Subject { name, path, format, note, .. } = subject;
    let shown = ui::display_path(path.as_os_str().as_encoded_bytes());
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return not_there(request, subject, &shown),
        Err(error) => return Finding::failed(name, format!("{shown}: {error}"), "run as the user of the service"),
    };
    let restore = match path.strip_prefix(root(request)) {
        Ok(inside) => {
            format!("stop the service and put it back: opsctl restore --include {}; {note}", inside.display())
        }
        Err(_) => format!("it is in no snapshot, as it is not on the volume: {note}"),
    };
    match format {
        Some(Format::Directory) if !found.is_dir() => {
            return Finding::failed(
                name,
                format!("{shown} is no folder"),
                "move it away, and make a folder in its place",
            );
        }
        Some(Format::Json | Format::Sqlite) if !found.is_file() => {
            return Finding::failed(name, format!("{shown} is no file"), restore);
        }
        _ => {}
    }
    let sound = match format {
        Some(Format::Json) => match json::fault(path, &subject.holds) {
            Ok(()) => Finding::ok(name, format!("{shown} reads as JSON")),
            Err(why) => Finding::failed(name, format!("{shown} is broken: {why}"), restore),
        },
        Some(Format::Sqlite) => database(request, subject, &shown, &restore),
        Some(Format::Directory) | None => Finding::ok(name, format!("{shown} can be written to{}", as_root())),
    };
    if sound.status == Status::Failed {
        return sound;
    }
    match needed_to_write(path, found.is_dir(), *format).iter().find_map(|path| Some((path, writable(path).err()?))) {
        Some((path, error)) => {
            let text = format!("{} cannot be written to: {error}", path.display());
            Finding::failed(name, text, own(request, path))
        }
        None => sound,
    }
}

/// What the service must be able to write to, to write to this.
fn needed_to_write(path: &Path, is_dir: bool, format: Option<Format>) -> Vec<PathBuf> {
    let mut needed = vec![path.to_owned()];
    if format == Some(Format::Sqlite) && !is_dir {
        // A database makes its log and its journal beside itself, and writes to those that it finds.
        needed.extend(path.parent().map(Path::to_owned));
        needed.extend(SIDE_SUFFIXES.map(|suffix| beside(path, suffix)).into_iter().filter(|side| side.exists()));
    }
    needed
}

/// The side file of a database with this suffix.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    sqlite::with_suffix(database.as_os_str(), suffix).into()
}

fn root<'r>(request: &'r Request<'_>) -> &'r Path {
    request.service.volume.as_ref().map_or(Path::new("/"), |volume| &volume.data_root)
}

fn not_there(request: &Request<'_>, subject: &Subject, shown: &str) -> Finding {
    let Subject { name, path, note, optional, .. } = subject;
    if !optional {
        let fix =
            format!("if the service has run before, restore it; else make it: mkdir -p {}", ui::shell_word(shown));
        return Finding::failed(name, format!("{shown} is not there: {note}"), fix);
    }
    // Whoever makes it later must be able to.
    let above = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    match writable(above) {
        Ok(()) => Finding::ok(name, format!("{shown} is not there yet")),
        Err(error) => {
            let text = format!("{shown} is not there, and cannot be made in {}: {error}", above.display());
            Finding::failed(name, text, own(request, above))
        }
    }
}

fn database(request: &Request<'_>, subject: &Subject, shown: &str, restore: &str) -> Finding {
    let name = &subject.name;
    if let Some(lack) = lack_of_room(&subject.path) {
        return Finding::warning(name, format!("{shown} was not checked: {lack}"), TMPDIR_FIX);
    }
    match copy_and_check(request, &subject.path) {
        Ok(bytes) => Finding::ok(name, format!("{shown} is an intact database of {}", ui::bytes(bytes))),
        Err(CaptureError::Inconsistent { reason }) => {
            Finding::failed(name, format!("{shown} is broken, or never at rest: {reason}"), restore)
        }
        Err(CaptureError::Interrupted) => Finding::skipped(name, "interrupted"),
        Err(CaptureError::Io(error)) => {
            Finding::warning(name, format!("{shown} could not be copied to be checked: {error}"), TMPDIR_FIX)
        }
    }
}

const TMPDIR_FIX: &str =
    "make room in the temporary folder, or name another by TMPDIR; and run as the user of the service";

/// Why there is no room to copy a database. If that cannot be asked, the copy itself will tell.
fn lack_of_room(database: &Path) -> Option<String> {
    let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let need = sqlite::room_for(length(database), length(&beside(database, "-wal")));
    let temporary = std::env::temp_dir();
    let free = free_space(&temporary).ok()?.bytes;
    (free < need).then(|| {
        let (need, free) = (ui::bytes(need), ui::bytes(free));
        format!("a copy may take {need} in {}, and {free} are free there", temporary.display())
    })
}

/// A database in use can be checked only as a snapshot would capture it: by a consistent copy.
fn copy_and_check(request: &Request<'_>, path: &Path) -> Result<u64, CaptureError> {
    let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    };
    let folder = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let cancelled = || request.cancel.is_cancelled();
    let scratch = Scratch::new(request.cancel)?;
    Ok(sqlite::capture(folder.as_fd(), file, scratch.path(), &cancelled, None)?.size)
}

/// Whether the running user may write there; in a folder that is to make files.
fn writable(path: &Path) -> Result<(), io::Error> {
    let enter = if path.is_dir() { Access::EXEC_OK } else { Access::empty() };
    Ok(rustix::fs::accessat(CWD, path, Access::READ_OK | Access::WRITE_OK | enter, AtFlags::EACCESS)?)
}

/// Writes, syncs and removes one file: a permission alone does not show a full disk or a broken one.
fn scratch(request: &Request<'_>, root: &Path) -> Finding {
    const NAME: &str = "file.scratch";
    match write_scratch(root) {
        Ok(()) => Finding::ok(NAME, format!("a file was written to {}, and removed{}", root.display(), as_root())),
        Err(error) => Finding::failed(NAME, format!("{} takes no file: {error}", root.display()), own(request, root)),
    }
}

fn write_scratch(root: &Path) -> io::Result<()> {
    let content = [0_u8; 4096];
    // Without a name: nothing stays even if this process is killed here.
    let nameless = rustix::fs::open(root, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    if let Ok(file) = nameless {
        let mut file = File::from(file);
        return file.write_all(&content).and_then(|()| file.sync_all());
    }
    write_named(&root.join(format!(".opsctl-doctor-{}", std::process::id())), &content)
}

fn write_named(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.and(std::fs::remove_file(path))
}

/// How the running user comes to be able to write to exactly this.
fn own(request: &Request<'_>, path: &Path) -> String {
    let (root, path) = (real(root(request)), real(path));
    if !root.is_dir() {
        return format!("attach a volume and mount it at {}", root.display());
    }
    if !path.starts_with(&root) {
        return format!("it is not on the volume {}: see the checks `location.…`", root.display());
    }
    let user = rustix::process::geteuid().as_raw();
    let path = ui::shell_word(path.display());
    format!(
        "mount the volume writable, and give this to the user of the service, nothing below it: chown {user} {path}"
    )
}

/// Root may write everywhere, so that it could says nothing of the user of the service.
fn as_root() -> &'static str {
    if rustix::process::geteuid().is_root() { " (as root)" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_file_with_a_name_is_removed_and_takes_nobody_elses_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scratch");
        write_named(&path, b"content").unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "somebody's").unwrap();
        assert!(write_named(&path, b"content").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
        write_scratch(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
