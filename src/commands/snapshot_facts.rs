//! What `snapshot` records about the content: where the profile and the variables of this process say that it is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::snapshot_service::Told;
use crate::archive::path::EntryPath;
use crate::capture::{Asked, AskedWorkspaces, FactsRequest};
use crate::config::profile::{Facts, Location, Profile, Service, Volume};
use crate::providers::service::{Workspace, absolute};
use crate::ui;

/// The value of a variable.
type ValueOf<'v> = &'v dyn Fn(&str) -> Option<OsString>;

/// The service whose volume this is.
pub(super) fn service<'p>(profile: &'p Profile, volume: &Volume) -> Option<&'p Service> {
    profile.chosen_services().find(|service| service.volume.as_ref() == Some(volume))
}

/// What to record of the folder `root`, which has the volume of one of the services; `None` if the profile asks for
/// nothing, or the folder is not the service's.
pub(super) fn request(
    profile: &Profile,
    volume: &Volume,
    root: &Path,
    told: &Told,
    value_of: ValueOf<'_>,
) -> Option<FactsRequest> {
    let service = service(profile, volume)?;
    let facts = service.facts.as_ref()?;
    let root = absolute(root);
    let (told_workspaces, outside) = inside(volume, &root, told.workspaces.as_deref());
    let asked = |path: &String| EntryPath::new(path.clone().into_bytes()).map_or(Asked::No, Asked::At);
    let request = FactsRequest {
        service: service.name.clone(),
        server: service.workspaces.as_ref().map(|workspaces| workspaces.engine),
        engine: service.sessions.as_ref().map(|sessions| sessions.engine),
        sessions: facts.sessions.as_ref().map_or(Asked::No, |name| sessions(volume, &root, name, value_of)),
        tokens: facts.tokens.as_ref().map_or(Asked::No, asked),
        has_no_tokens: facts
            .tokens
            .as_ref()
            .is_some_and(|path| is_named_and_missing(volume, &root.join(path), value_of)),
        workspaces: facts.workspace.as_ref().map(|path| AskedWorkspaces {
            told: told_workspaces,
            outside,
            place: workspace(service, &root, path, value_of),
            is_named: workspace_variable(service, value_of).is_some(),
            list: list_of_workspaces(facts, volume, &root, value_of),
            audit: facts.audit.as_ref().and_then(|path| EntryPath::new(path.clone().into_bytes()).ok()),
        }),
        versions: told.versions.clone().unwrap_or_default(),
    };
    let places = facts.tokens.iter().chain(&facts.workspace).chain(&facts.audit);
    let is_its_own = root == volume.data_root
        || places.into_iter().any(|path| root.join(path).exists())
        || matches!(&request.sessions, Asked::At(path) if root.join(std::ffi::OsStr::from_bytes(path.as_bytes())).exists());
    is_its_own.then_some(request)
}

/// The database of the sessions, as the variables say.
fn sessions(volume: &Volume, root: &Path, location: &str, value_of: ValueOf<'_>) -> Asked {
    let Some(location) = volume.locations.iter().find(|known| known.name == location) else { return Asked::No };
    let Some((candidate, place)) = location.place(value_of) else {
        let variables: Vec<&str> = location.candidates.iter().map(|one| one.variable.as_str()).collect();
        return Asked::Elsewhere(format!("none of {} says where they are kept", variables.join(", ")));
    };
    let variable = &candidate.variable;
    if !place.is_absolute() {
        return Asked::Elsewhere(format!("{variable} does not name them by an absolute path"));
    }
    at_place(root, location, variable, &place)
}

/// In the snapshot, unless `place` is outside of it.
fn at_place(root: &Path, location: &Location, variable: &str, place: &Path) -> Asked {
    let elsewhere = || {
        let fix: Vec<String> = location.fix.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (place, root) = (place.display(), root.display());
        Asked::Elsewhere(format!(
            "they are kept in {place} ({variable}), outside {root}; {} keeps them inside",
            fix.join(" ")
        ))
    };
    below(root, place).map_or_else(elsewhere, Asked::At)
}

/// The workspaces that the service told, and apart from them the paths that are not in the snapshot, which is said.
fn inside(volume: &Volume, root: &Path, told: Option<&[Workspace]>) -> (Option<Vec<Workspace>>, Vec<PathBuf>) {
    // Without a path it is on another machine. The service may have the volume elsewhere than this machine has it.
    let is_inside = |one: &&Workspace| {
        let path = absolute(&one.path);
        let is_below = path.starts_with(&volume.data_root) || path == root || below(root, &path).is_some();
        one.path.as_os_str().is_empty() || is_below
    };
    let (inside, outside): (Vec<_>, Vec<_>) = told.into_iter().flatten().partition(is_inside);
    for one in &outside {
        ui::warn(format!("the workspace {} is outside {}: it is not captured", one.path.display(), root.display()));
    }
    let outside = outside.into_iter().map(|one| one.path.clone()).collect();
    (told.map(|_| inside.into_iter().cloned().collect()), outside)
}

/// The value of the variable that names the workspace.
fn workspace_variable(service: &Service, value_of: ValueOf<'_>) -> Option<OsString> {
    value_of(service.workspaces.as_ref()?.variable.as_str())
}

/// The file with the service's own list of workspaces, if it has made one.
fn list_of_workspaces(facts: &Facts, volume: &Volume, root: &Path, value_of: ValueOf<'_>) -> Asked {
    let location = volume.locations.iter().find(|known| facts.workspaces.as_ref() == Some(&known.name));
    let Some((location, (candidate, place))) = location.and_then(|known| Some((known, known.place(value_of)?))) else {
        return Asked::No;
    };
    let is_there = std::path::absolute(&place).is_ok_and(|place| place.symlink_metadata().is_ok());
    if is_there { at_place(root, location, &candidate.variable, &place) } else { Asked::No }
}

/// The path of the workspace as the service knows it: its variable says, or it is where the profile has it.
fn workspace(
    service: &Service,
    root: &Path,
    path: &str,
    value_of: ValueOf<'_>,
) -> std::result::Result<PathBuf, String> {
    let variable = service.workspaces.as_ref().map(|workspaces| workspaces.variable.as_str()).unwrap_or_default();
    let named = workspace_variable(service, value_of);
    let place = named.map_or_else(|| root.join(path), |value| absolute(Path::new(&value)));
    if below(root, &place).is_none() {
        return Err(format!("the workspace is {} ({variable}), outside {}", place.display(), root.display()));
    }
    if !place.is_dir() {
        return Err(format!("there is no folder {}", place.display()));
    }
    Ok(place)
}

/// Whether a variable names this very place for something, and nothing is there yet.
fn is_named_and_missing(volume: &Volume, place: &Path, value_of: ValueOf<'_>) -> bool {
    let is_missing = place.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let names = |location: &Location| location.place(value_of).is_some_and(|(_, found)| absolute(&found) == place);
    is_missing && volume.locations.iter().any(names)
}

/// The path in the snapshot; `None` if it is not in there. Links above it may lead there.
fn below(root: &Path, place: &Path) -> Option<EntryPath> {
    let place = absolute(place);
    let real = || {
        // The file itself is never followed, nor must it be there.
        let folder = std::fs::canonicalize(place.parent()?).ok()?;
        Some(folder.join(place.file_name()?).strip_prefix(std::fs::canonicalize(root).ok()?).ok()?.to_owned())
    };
    let relative = place.strip_prefix(root).ok().map(Path::to_owned).or_else(real)?;
    EntryPath::new(relative.as_os_str().as_bytes().to_vec()).ok().filter(|path| !path.as_bytes().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/srv/home";

    fn request_at(root: &Path, variables: &[(&str, &str)]) -> Option<FactsRequest> {
        let profile = Profile::load("openwork").unwrap();
        let volume = profile.volume().unwrap().clone();
        let value_of = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into()).or_else(|| (name == "HOME").then(|| HOME.into()))
        };
        request(&profile, &volume, root, &Told::default(), &value_of)
    }

    /// A folder of the service.
    fn data() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("workspace")).unwrap();
        dir
    }

    fn text(asked: &Asked) -> String {
        match asked {
            Asked::No => "no".to_owned(),
            Asked::At(path) => format!("at {}", String::from_utf8_lossy(path.as_bytes())),
            Asked::Elsewhere(reason) => reason.clone(),
        }
    }

    #[test]
    fn sessions_are_where_the_variables_say() {
        let dir = data();
        let root = dir.path().to_str().unwrap();
        let at = |variables: &[(&str, &str)]| text(&request_at(dir.path(), variables).unwrap().sessions);
        let share = format!("{root}/xdg/share");
        assert_eq!(at(&[("XDG_DATA_HOME", &share)]), "at xdg/share/opencode/opencode.db");
        let own = format!("{root}/./a/../own.db");
        assert_eq!(at(&[("XDG_DATA_HOME", &share), ("OPENCODE_DB", &own)]), "at own.db");
        assert_eq!(at(&[("OPENCODE_DB", "own.db")]), "OPENCODE_DB does not name them by an absolute path");
        let outside = at(&[]);
        assert!(
            outside.starts_with("they are kept in /srv/home/.local/share/opencode/opencode.db (HOME), outside"),
            "{outside}"
        );
        assert!(outside.ends_with("; XDG_DATA_HOME=/data/xdg/share keeps them inside"), "{outside}");
        assert!(
            at(&[("HOME", "")]).starts_with("none of OPENCODE_DB, XDG_DATA_HOME, HOME says"),
            "{}",
            at(&[("HOME", "")])
        );
        // Beside, and not below.
        assert!(at(&[("XDG_DATA_HOME", &format!("{root}-2"))]).starts_with("they are kept"));
    }

    #[test]
    fn a_folder_reached_by_a_link_is_the_same_folder() {
        let dir = data();
        let link = dir.path().with_extension("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        std::fs::create_dir_all(dir.path().join("xdg/opencode")).unwrap();
        let variables = [("XDG_DATA_HOME", format!("{}/xdg", link.display()))];
        let variables = [(variables[0].0, variables[0].1.as_str())];
        let asked = request_at(dir.path(), &variables).unwrap().sessions;
        std::fs::remove_file(&link).unwrap();
        assert_eq!(text(&asked), "at xdg/opencode/opencode.db");
    }

    #[test]
    fn the_workspace_is_the_one_that_the_variable_names() {
        let dir = data();
        let of = |variables: &[(&str, &str)]| request_at(dir.path(), variables).unwrap().workspaces.unwrap();
        let own = of(&[]);
        assert_eq!((own.place.unwrap(), own.is_named), (dir.path().join("workspace"), false));
        assert_eq!(own.audit.unwrap().as_bytes(), b"openwork-orchestrator/audit");
        std::fs::create_dir(dir.path().join("workspace/project")).unwrap();
        let project = format!("{}/workspace/project/", dir.path().display());
        let named = of(&[("OPENWORK_WORKSPACE", &project)]);
        assert_eq!((named.place.unwrap(), named.is_named), (dir.path().join("workspace/project"), true));
        for bad in ["/elsewhere", &format!("{}/not-there", dir.path().display())] {
            assert!(of(&[("OPENWORK_WORKSPACE", bad)]).place.is_err());
        }
    }

    #[test]
    fn the_list_of_workspaces_is_where_the_variables_say_if_there_is_one() {
        let dir = data();
        let other = tempfile::tempdir().unwrap();
        let list = |variable: &str, root: &Path, name: &str| {
            let value = format!("{}{name}", root.display());
            text(&request_at(dir.path(), &[(variable, &value)]).unwrap().workspaces.unwrap().list)
        };
        assert_eq!(list("OPENWORK_SERVER_CONFIG", dir.path(), "/server.json"), "no");
        std::fs::write(dir.path().join("server.json"), "{}").unwrap();
        assert_eq!(list("OPENWORK_SERVER_CONFIG", dir.path(), "/server.json"), "at server.json");
        std::fs::create_dir_all(other.path().join(".config/openwork")).unwrap();
        assert_eq!(list("HOME", other.path(), ""), "no");
        std::fs::write(other.path().join(".config/openwork/server.json"), "{}").unwrap();
        let elsewhere = list("HOME", other.path(), "");
        assert!(elsewhere.contains("(HOME), outside") && elsewhere.contains("OPENWORK_SERVER_CONFIG="), "{elsewhere}");
    }

    #[test]
    fn no_file_of_tokens_means_none_only_where_they_are_known_to_be_kept_there() {
        let dir = data();
        let file = format!("{}/openwork-server/tokens.json", dir.path().display());
        let has_none = |variables: &[(&str, &str)]| request_at(dir.path(), variables).unwrap().has_no_tokens;
        assert!(has_none(&[("OPENWORK_TOKEN_STORE", &file)]));
        assert!(!has_none(&[]));
        assert!(!has_none(&[("OPENWORK_TOKEN_STORE", "/srv/home/tokens.json")]));
        std::fs::create_dir(dir.path().join("openwork-server")).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(!has_none(&[("OPENWORK_TOKEN_STORE", &file)]), "it is there, whatever becomes of it");
    }

    #[test]
    fn a_folder_of_somebody_else_has_no_facts_and_the_data_root_always_has() {
        let dir = tempfile::tempdir().unwrap();
        assert!(request_at(dir.path(), &[]).is_none());
        assert!(request_at(Path::new("/data"), &[]).is_some());
        std::fs::create_dir_all(dir.path().join("xdg/opencode")).unwrap();
        std::fs::write(dir.path().join("xdg/opencode/opencode.db"), "").unwrap();
        let share = format!("{}/xdg", dir.path().display());
        assert!(request_at(dir.path(), &[("XDG_DATA_HOME", &share)]).is_some());
    }
}
