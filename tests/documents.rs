//! What the documents say is so: tables, examples, links, commands, help.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use opsctl::ExitCode;
use opsctl::config::{Environment, env};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the repository, by git: what is ignored is not of it.
fn files() -> Vec<PathBuf> {
    let mut command = Command::new("git");
    command.env_clear().envs(support::clean_env()).current_dir(repository());
    command.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = command.output().expect("start git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> = names.split_terminator('\0').map(PathBuf::from).collect();
    // A file that was removed and not yet committed is listed still.
    let files: Vec<_> = files.into_iter().filter(|file| repository().join(file).is_file()).collect();
    assert!(files.len() > 50, "{files:?}");
    files
}

fn markdown() -> Vec<PathBuf> {
    let found: Vec<_> = files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "md")).collect();
    found.into_iter().filter(|file| !file.starts_with("fixtures/data")).collect()
}

/// The lines of a Markdown text outside of fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_code() {
    let text = read("docs/exit-codes.md");
    let table: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| code")).collect();
    let row = |code: &ExitCode| format!("| {} | {} | {} |", code.code(), code.name(), code.meaning());
    assert_eq!(table, ExitCode::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn every_json_example_parses() {
    let text = read("docs/format.md");
    let mut blocks = 0;
    for block in text.split("```json\n").skip(1) {
        let block = block.split("```").next().unwrap();
        // One document, or JSON Lines.
        let whole = serde_json::from_str::<serde_json::Value>(block).map(|_| ());
        let lines = || block.lines().try_for_each(|line| serde_json::from_str::<serde_json::Value>(line).map(|_| ()));
        whole.or_else(|_| lines()).unwrap_or_else(|error| panic!("{error} in:\n{block}"));
        blocks += 1;
    }
    assert!(blocks >= 8, "{blocks}");
}

#[test]
fn what_brings_the_old_data_back_is_the_same_in_every_document() {
    let sentence = "If a probe fails, somebody is let in without a token or with a wrong one, or the data is not as captured or not \
                    served, the old data comes back";
    for document in ["docs/verify.md", "runbooks/incident-restore.md"] {
        let text = read(document).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(sentence) && !text.contains("If a check fails"), "{document}");
    }
}

/// The heading's anchor, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept: String = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect();
    kept.replace(' ', "-")
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut links = 0;
    let mut broken = Vec::new();
    for document in markdown() {
        let text = prose(&read(document.to_str().unwrap()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let (path, fragment) = link.split_once('#').map_or((link, None), |(path, end)| (path, Some(end)));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            let leaves = target.components().fold(0_i32, |depth, part| match part {
                Component::ParentDir => depth.min(depth - 1),
                Component::Normal(_) if depth >= 0 => depth + 1,
                _ => depth,
            }) < 0;
            let there = repository().join(&target);
            let has = |anchor_wanted: &str| {
                let text = std::fs::read_to_string(&there).unwrap_or_default();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| anchor(line.trim_start_matches('#')) == anchor_wanted)
            };
            if leaves || !there.exists() || fragment.is_some_and(|fragment| !has(fragment)) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(links > 10 && broken.is_empty(), "{links} links; broken: {broken:#?}");
}

#[test]
fn the_two_commands_of_the_readme_are_targets_of_make() {
    let text = read("README.md");
    let makefile = read("Makefile");
    for target in ["demo", "test"] {
        assert!(text.contains(&format!("make {target}")), "README.md does not say `make {target}`");
        assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "no target {target}");
        let mut make = Command::new("make");
        make.args(["-n", target]).current_dir(repository()).stdout(Stdio::null());
        assert!(make.status().expect("start make").success(), "make -n {target}");
    }
    assert!(read(".ci/run").contains("make lint test"));
    for target in text.split("make ").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap())
    {
        let known = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
        assert!(known || target.is_empty(), "README.md speaks of `make {target}`, which is no target");
    }
}

#[test]
fn the_demo_runs() {
    let temporary = support::TestDir::new();
    let mut demo = Command::new("sh");
    demo.arg("scripts/demo.sh").arg(env!("CARGO_BIN_EXE_opsctl")).current_dir(repository());
    demo.env_clear().envs(support::clean_env()).env("TMPDIR", temporary.path());
    // Settings of whoever runs it must not matter.
    demo.env("OPSCTL_STORE", "s3://nowhere").env("OPSCTL_EXCLUDE", "**").env("RAILWAY_SERVICE_NAME", "other");
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);
    // It shows each command that it runs.
    let mut at = 0;
    for command in ["init", "snapshot", "snapshot", "list", "restore", "check"] {
        let shown = format!("\n$ opsctl {command} ");
        at += said[at..].find(&shown).unwrap_or_else(|| panic!("no `opsctl {command}` in order in:\n{said}")) + 1;
    }
    assert!(said.contains(" --at "), "it restores at a time");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "it leaves nothing behind");
}

/// Every command that does something, with the words that call it.
fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        commands(sub, &path, found);
        found.push((path, sub.clone()));
    }
}

#[test]
fn every_command_has_help_with_an_example_and_exit_codes() {
    let mut found = Vec::new();
    commands(&opsctl::commands::Cli::command(), "", &mut found);
    assert!(found.len() >= 10, "{found:?}");
    for (path, command) in found {
        let words: Vec<&str> = path.split_whitespace().chain(["--help"]).collect();
        let output = support::opsctl().args(&words).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains("Usage: opsctl"), "{words:?}");
        // A sub-command of a group may leave the codes to the group.
        let group = path.split_whitespace().count() > 1;
        assert!(help.contains("Exit codes:") || group, "opsctl{path} --help has no exit codes:\n{help}");
        let example = help.contains("Example: opsctl") || (group && command.get_name() == "show");
        assert!(example, "opsctl{path} --help has no example:\n{help}");
        for example in help.split("Example: ").skip(1) {
            let first = path.split_whitespace().next().unwrap();
            assert!(
                example.starts_with(&format!("opsctl {first}")),
                "the example of opsctl{path} is of another command"
            );
        }
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "opsctl{path}: {} has no help", arg.get_id());
        }
    }
}

#[test]
fn every_flag_has_its_variable_and_stands_in_the_documentation() {
    let command = env::augment(opsctl::commands::Cli::command(), &Environment::fixed([]));
    assert_eq!(env::flags_without_variable(&command), Vec::<String>::new());
    let text = read("docs/configuration.md");
    let flags = env::flag_variables(&command);
    assert!(flags.len() > 40, "{flags:?}");
    let mut lacks = Vec::new();
    for (flag, variable) in flags {
        let long = flag.rsplit(' ').next().unwrap();
        let named = text.contains(&format!("`{long}`")) || text.contains(&format!("`{long} "));
        let named = named || text.contains(&format!("{long} ")) || text.contains(&format!("{long}`"));
        if !text.contains(&format!("`{variable}`")) || !named {
            lacks.push(format!("{flag} ({variable})"));
        }
    }
    assert!(lacks.is_empty(), "docs/configuration.md lacks: {lacks:#?}");
}

#[test]
fn one_variable_has_one_meaning() {
    let command = env::augment(opsctl::commands::Cli::command(), &Environment::fixed([]));
    let text = read("docs/configuration.md");
    let in_table = |line: &&str| line.starts_with("| ");
    for (flag, variable) in env::flag_variables(&command) {
        let name = format!("`{variable}`");
        let rows: Vec<&str> = text.lines().filter(in_table).filter(|line| line.contains(&name)).collect();
        // A flag that several commands have under one variable means the same in each: it has one row.
        assert_eq!(rows.len(), 1, "{flag}: {rows:#?}");
        // Where a row is about one command's flag, it says so.
        let (command, long) = flag.rsplit_once(' ').unwrap();
        let of_command = format!("`{} {long}", command.rsplit(' ').next().unwrap());
        let is_there = rows[0].contains(&format!("`{long}")) || rows[0].contains(&of_command);
        assert!(is_there, "{flag} is not in the row of {variable}");
    }
}

#[test]
fn manual_and_completions() {
    let run = |words: &[&str]| {
        let output = support::opsctl().args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let manual = run(&["man"]);
    let mut found = Vec::new();
    commands(&opsctl::commands::Cli::command(), "", &mut found);
    for (path, _) in found {
        let title = format!(".TH opsctl{} 1", path.replace(' ', "-"));
        assert!(manual.contains(&title), "no page {title}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("exclude-recoverable"), "{shell}");
    }
    let mut bash = Command::new("bash");
    bash.args(["-n", "-c", &run(&["completions", "bash"])]);
    assert!(bash.status().expect("start bash").success(), "bash does not understand its completions");
}

#[test]
fn no_file_names_a_folder_of_the_machine_it_was_written_on() {
    // Put together here, so that this file does not name them itself.
    let folders: Vec<String> = [["/ho", "me/"], ["/Use", "rs/"], ["/wo", "rk/"], ["/ro", "ot/"], ["C:\\", "Users"]]
        .map(|parts| parts.concat())
        .into();
    let here = repository().to_str().unwrap().to_owned() + "/";
    let mut found = Vec::new();
    for file in files() {
        let bytes = std::fs::read(repository().join(&file)).unwrap();
        let Ok(text) = String::from_utf8(bytes) else { continue };
        for (at, line) in text.lines().enumerate() {
            // As a path begins: not in the middle of one, such as docs/home/.
            let begins = |folder: &String| {
                line.match_indices(folder.as_str())
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}$*".contains(c)))
            };
            if folders.iter().any(begins) || line.contains(&here) {
                found.push(format!("{}:{}: {line}", file.display(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_checks_or_captures_a_service_knows_it_through_its_profile_and_its_provider_alone() {
    let names = ["openwork", "opencode", "openwrk", "xdg_", "tokens.json", "server.json", "/health", "--workspace"];
    let is_general = |file: &PathBuf| {
        let folders = ["src/verify", "src/doctor", "src/capture", "src/commands", "src/providers/service.rs"];
        folders.iter().any(|folder| file.starts_with(folder)) && !file.ends_with("tests.rs")
    };
    let general: Vec<PathBuf> = files().into_iter().filter(is_general).collect();
    assert!(general.len() > 15, "{general:?}");
    let mut found = Vec::new();
    for file in &general {
        let text = read(file.to_str().unwrap());
        let code = text.split("#[cfg(test)]").next().unwrap().lines().enumerate();
        for (number, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let knows = names.iter().any(|name| line.to_ascii_lowercase().contains(name));
            found.extend(knows.then(|| format!("{}:{}: {}", file.display(), number + 1, line.trim())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn help_texts_are_not_broken_by_a_terminal_of_80_columns() {
    const WIDTH: usize = 78;
    let mut texts = 0;
    for file in files().into_iter().filter(|file| file.starts_with("src/commands")) {
        let code = read(file.to_str().unwrap());
        let lines: Vec<&str> = code.lines().collect();
        for at in (0..lines.len()).filter(|at| lines[*at] == "#[command(verbatim_doc_comment)]") {
            texts += 1;
            let above = lines[..at].iter().rev().skip_while(|line| line.starts_with("#["));
            let text = above.take_while(|line| line.starts_with("///")).map(|line| line.trim_start_matches("/// "));
            // A command is copied in one piece.
            for line in text.filter(|line| !line.starts_with("Example: ")) {
                assert!(line.chars().count() <= WIDTH, "{}: {line}", file.display());
            }
        }
    }
    assert!(texts > 10, "{texts}");
}
