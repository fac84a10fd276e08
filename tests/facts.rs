//! What a snapshot records of a deployment: exactly what it captured, whoever writes meanwhile, and why not where it cannot.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

#[path = "support/deployed.rs"]
mod deployment;
#[path = "support/forge.rs"]
mod forge;
#[path = "support/opencode.rs"]
mod opencode;
#[path = "support/openwork/mod.rs"]
mod openwork;
#[path = "support/stub_store.rs"]
mod stub_store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deployment::{Deployment, Ends, counted, facts, sessions};
use forge::{Forge, entry, texts};
use opencode::{NEW, OLD, OpenCode};
use openwork::{Engine, OpenWork, Version};
use opsctl::archive::facts::Recorded;
use rusqlite::Connection;
use serde_json::{Value, json};
use support::opsctl::{Bench, files_below, rest, run};
use support::wait_for;

/// A database of sessions as OpenCode keeps it, without OpenCode.
fn write_sessions(database: &Path, ids: &[&str]) {
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    let db = Connection::open(database).unwrap();
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS session (id text PRIMARY KEY, title text);
         CREATE TABLE IF NOT EXISTS message (id text PRIMARY KEY, session_id text);",
    )
    .unwrap();
    for id in ids {
        db.execute("INSERT INTO session VALUES (?1, 'a title')", [id]).unwrap();
        db.execute("INSERT INTO message VALUES ('m' || ?1, ?1)", [id]).unwrap();
    }
}

fn reason<T: std::fmt::Debug>(recorded: &Recorded<T>) -> &str {
    recorded.reason().unwrap_or_else(|| panic!("{recorded:?}"))
}

// ---- what is recorded ----

#[test]
fn sessions_of_a_writing_opencode_are_recorded_as_they_are_captured() {
    for version in [OLD, NEW] {
        let it = Deployment::new();
        let real = OpenCode::start(version, &it.workspace(), &it.home());
        let (committed, over) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
        let step = |number: usize| {
            let id = real.create(&format!("session {number}"));
            committed.lock().unwrap().insert(id.clone(), 0_u64);
            for text in ["one", "two"].iter().take(number % 3) {
                real.say(&id, text);
                *committed.lock().unwrap().get_mut(&id).unwrap() += 1;
            }
        };
        (0..5).for_each(step);
        let mut taken = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (5..).take_while(|_| !over.load(Ordering::SeqCst)).for_each(step));
            let _ends_with_this = Ends(&over);
            for _ in 0..4 {
                let before = committed.lock().unwrap().clone();
                taken.push((before, it.take().id().to_owned()));
                let more = taken.last().map_or(0, |(before, _)| before.len());
                wait_for("more sessions", Duration::from_secs(60), || {
                    (committed.lock().unwrap().len() > more).then_some(())
                });
            }
        });
        let all = committed.into_inner().unwrap();
        for (before, id) in taken {
            let found = facts(&it.bench, &id).unwrap();
            let recorded = &sessions(&found).messages;
            assert_eq!(sessions(&found).path, "xdg/share/opencode/opencode.db");
            for (session, messages) in &before {
                let counted = recorded.get(session).unwrap_or_else(|| panic!("{session} was committed before {id}"));
                assert!(counted >= messages, "{session}: {counted} of {messages} messages");
            }
            assert!(recorded.keys().all(|session| all.contains_key(session)));
            // Exactly what the restored database has.
            let to = it.bench.dir.join(format!("restored-{id}"));
            it.bench.restore(&to, ["--snapshot", &id]).ok();
            assert_eq!(*recorded, counted(&to.join("xdg/share/opencode/opencode.db")), "{version}");
            // And nobody reads it in the store.
            let plain = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains("ses_");
            assert!(!files_below(&it.bench.store).iter().any(|path| plain(path)));
        }
    }
}

#[test]
fn a_database_that_is_all_in_its_log_is_recorded() {
    let it = Deployment::new();
    let real = OpenCode::start(OLD, &it.workspace(), &it.home());
    let ids = [real.create("one"), real.create("two")];
    let database = it.home().database();
    assert_eq!(database.metadata().unwrap().len(), 4096, "everything is in the -wal");
    let alone = it.bench.dir.join("alone.db");
    std::fs::copy(&database, &alone).unwrap();
    let open = Connection::open(&alone).unwrap();
    assert!(open.prepare("SELECT id FROM session").is_err(), "the main file alone has no tables");
    it.take();
    let recorded: Vec<String> = sessions(&it.facts()).messages.keys().cloned().collect();
    assert!(ids.iter().all(|id| recorded.contains(id)) && recorded.len() == 2, "{recorded:?}");
    // What SIGTERM leaves behind is read as well.
    real.stop();
    assert!(it.home().database().with_extension("db-wal").metadata().unwrap().len() > 0);
    it.take();
    assert_eq!(sessions(&it.facts()).messages.len(), 2);
}

#[test]
fn tokens_the_workspace_and_its_last_audit_entry_are_recorded() {
    let it = Deployment::new();
    let server = OpenWork::boot(Version::V0_18_1, &it.bench.tree, Engine::Unconfigured);
    let minted = ["viewer", "owner"].map(|scope| server.mint(scope, "the label of a person"));
    ["a.txt", "b.txt"].iter().for_each(|name| server.upload(name, "hello"));
    write_sessions(&it.home().database(), &["ses_a"]);
    let done = run(it.snapshot_command(&["--service-url", &server.url()])).ok();
    assert_eq!(done.warnings(), [] as [String; 0]);
    let found = it.facts();
    assert_eq!(found.service, "openwork");
    assert_eq!(found.versions["server"], "0.18.1");
    let tokens = found.tokens.recorded().unwrap();
    // One was made at boot.
    assert_eq!(tokens.len(), 3);
    assert!(minted.iter().all(|token| tokens.contains(&token.id)));
    let [workspace] = &found.workspaces.recorded().unwrap()[..] else { panic!("{found:?}") };
    assert_eq!((&workspace.id, Path::new(&workspace.path)), (&server.workspace_id(), &*it.workspace()));
    let last = server.get(&format!("/workspace/{}/audit?limit=1", server.workspace_id()))["items"][0].clone();
    assert_eq!(last["target"], "b.txt");
    assert_eq!(json!([workspace.last_audit, workspace.last_audit_ms]), json!([last["id"], last["timestamp"]]));
    let text = serde_json::to_string(&found).unwrap();
    let secrets = minted.iter().flat_map(|token| [token.secret.clone(), openwork::hash(&token.secret)]);
    assert!(secrets.chain(["the label of a person".to_owned()]).all(|secret| !text.contains(&secret)));
    // A person sees how many.
    let show = |identity: bool| {
        let mut command = it.bench.command();
        command.args(["show", "latest"]);
        if identity {
            command.env("OPSCTL_IDENTITY_FILE", &it.bench.identity);
        }
        command
    };
    assert!(run(show(true)).ok().says("1 session with 1 message; 3 tokens; 1 workspace"));
    let mut command = show(true);
    let shown = run({
        command.arg("--json");
        command
    })
    .ok()
    .json["facts"]
        .clone();
    assert_eq!(
        json!([shown["sessions"], shown["messages"], shown["tokens"], shown["workspaces"]]),
        json!([1, 1, 3, 1])
    );
    let mut command = show(false);
    assert_eq!(
        run({
            command.arg("--json");
            command
        })
        .ok()
        .json["facts"],
        Value::Null,
        "not without the key"
    );
}

// ---- what is not ----

#[test]
fn sessions_outside_the_volume_are_a_warning_and_recorded_as_not_captured() {
    let mut it = Deployment::new();
    let outside = it.bench.dir.join("home");
    write_sessions(&outside.join(".local/share/opencode/opencode.db"), &["ses_a"]);
    it.env.retain(|(name, _)| *name != "XDG_DATA_HOME");
    it.env.push(("HOME", outside.display().to_string()));
    let done = it.take();
    assert_eq!(done.text("status"), "complete");
    let warning = done.warning("sessions: not captured");
    let place = outside.join(".local/share/opencode/opencode.db").display().to_string();
    let says = [place.as_str(), "(HOME)", "outside", &it.bench.tree.display().to_string(), "XDG_DATA_HOME="];
    assert!(says.iter().all(|part| warning.contains(part)), "{warning}");
    assert!(warning.ends_with(reason(&it.facts().sessions)));
    // Known by no variable: it is said that nothing is known.
    it.env.retain(|(name, _)| *name != "HOME");
    let mut command = it.snapshot_command(&[]);
    command.env_remove("HOME");
    run(command).ok().warning("sessions: not captured, none of OPENCODE_DB, XDG_DATA_HOME, HOME");
    // On the volume, and left out on purpose.
    it.env.push(("XDG_DATA_HOME", it.bench.tree.join("xdg/share").display().to_string()));
    write_sessions(&it.home().database(), &["ses_a"]);
    let done = run(it.snapshot_command(&["--exclude", "opencode.db*"])).ok();
    done.warning("sessions: not captured, xdg/share/opencode/opencode.db is not in the snapshot");
}

#[test]
fn a_broken_list_of_tokens_is_a_warning_and_no_empty_list() {
    let it = Deployment::new();
    let server = OpenWork::boot(Version::V0_18_16, &it.bench.tree, Engine::Unconfigured);
    write_sessions(&it.home().database(), &["ses_a"]);
    it.take();
    assert_eq!(it.facts().tokens, Recorded::Recorded(Vec::new()), "none was ever made");
    let minted = server.mint("viewer", "x");
    let whole = std::fs::read(server.tokens_file()).unwrap();
    std::fs::write(server.tokens_file(), &whole[..whole.len() - 20]).unwrap();
    for _ in 0..2 {
        let done = it.take();
        let warning =
            done.warning("tokens: not captured, openwork-server/tokens.json: it is not a valid list of tokens");
        assert!(!done.says(&openwork::hash(&minted.secret)) && warning.contains("line"), "{warning}");
        assert!(reason(&it.facts().tokens).contains("not a valid list"));
        assert_eq!(sessions(&it.facts()).messages.len(), 1, "the rest is recorded");
        // The second time it is unchanged, and remembered to be broken.
        rest();
    }
    std::fs::write(server.tokens_file(), &whole).unwrap();
    // Left out is not the same as none.
    let done = run(it.snapshot_command(&["--exclude", "tokens.json"])).ok();
    done.warning("tokens: not captured, openwork-server/tokens.json is not in the snapshot");
    it.take();
    assert_eq!(it.facts().tokens, Recorded::Recorded(vec![minted.id]));
}

#[test]
fn what_is_no_database_of_sessions_is_said_to_be_none() {
    let it = Deployment::new();
    let database = it.home().database();
    let not_captured = |part: &str| {
        run(it.snapshot_command(&[])).warning(&format!("sessions: not captured, xdg/share/opencode/opencode.db{part}"));
    };
    not_captured(" is not in the snapshot");
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    std::fs::write(&database, "hello").unwrap();
    not_captured(": it is no SQLite database");
    std::fs::remove_file(&database).unwrap();
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE other (id text)").unwrap();
    not_captured(": it has no table `session`");
    // Damaged: then the snapshot itself is incomplete.
    let mut bytes = std::fs::read(&database).unwrap();
    bytes[100..120].fill(0xff);
    std::fs::write(&database, bytes).unwrap();
    let done = run(it.snapshot_command(&[])).ended(3);
    done.warning("sessions: not captured, xdg/share/opencode/opencode.db is not in the snapshot");
}

#[test]
fn tokens_that_were_changing_while_they_were_read_are_not_captured() {
    let it = Deployment::new();
    write_sessions(&it.home().database(), &["ses_a"]);
    let token = |n: usize| json!({"id": format!("id-{n}"), "label": "x".repeat(1000)});
    let file = json!({"tokens": (0..5000).map(token).collect::<Vec<_>>()}).to_string();
    let path = it.bench.dir.write("tree/openwork-server/tokens.json", file);
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            while !over.load(Ordering::SeqCst) {
                file.set_modified(std::time::SystemTime::now()).unwrap();
            }
        });
        let done = wait_for("a snapshot during which it never rested", Duration::from_secs(120), || {
            let done = run(it.snapshot_command(&[]));
            (done.code == 3).then_some(done)
        });
        over.store(true, Ordering::SeqCst);
        done
    });
    done.warning("captured while changing: openwork-server/tokens.json");
    assert!(done.warning("tokens: not captured").ends_with("it was changing while it was read"));
    assert!(it.facts().tokens.reason().is_some());
    it.take();
    assert_eq!(it.facts().tokens.recorded().map(Vec::len), Some(5000));
}

#[test]
fn a_folder_of_somebody_else_has_no_facts() {
    let bench = Bench::new();
    bench.dir.write("tree/a.txt", "a");
    assert_eq!(bench.take().warnings(), [] as [String; 0]);
    assert_eq!(facts(&bench, "latest"), None);
    let mut command = bench.command();
    command.args(["show", "latest", "--json"]).env("OPSCTL_IDENTITY_FILE", &bench.identity);
    assert_eq!(run(command).ok().json["facts"], Value::Null);
}

// ---- unchanged ----

#[test]
fn an_unchanged_deployment_is_not_read_again_and_has_the_same_facts() {
    let it = Deployment::new();
    let server = OpenWork::boot(Version::V0_18_1, &it.bench.tree, Engine::Unconfigured);
    server.upload("a.txt", "hello");
    write_sessions(&it.home().database(), &["ses_a", "ses_b"]);
    rest();
    it.take();
    let first = it.facts();
    let again = it.take();
    assert_eq!((again.number("bytes_read"), again.number("bytes_stored")), (0, 0));
    assert_eq!(it.facts(), first);
    // Without what is remembered, these three files are read, and a plan says so.
    let remembered = it.bench.state_file("facts");
    std::fs::remove_file(&remembered).unwrap();
    let plan = run(it.snapshot_command(&["--dry-run"])).ok();
    let mut read: Vec<&str> = plan.json["read"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    read.sort_unstable();
    let audit = format!("openwork-orchestrator/audit/{}.jsonl", server.workspace_id());
    assert_eq!(read, [audit.as_str(), "openwork-server/tokens.json", "xdg/share/opencode/opencode.db"]);
    let done = it.take();
    assert!(done.number("bytes_read") > 0 && done.number("bytes_stored") == 0);
    assert_eq!(it.facts(), first);
    // What is remembered and damaged, or of another content, is not believed.
    let mut other: Value = serde_json::from_slice(&std::fs::read(&remembered).unwrap()).unwrap();
    for found in other["found"].as_object_mut().unwrap().values_mut() {
        found[0] = json!("00".repeat(32));
    }
    for lie in ["{".to_owned(), other.to_string().replace("ses_a", "ses_x")] {
        std::fs::write(&remembered, lie).unwrap();
        it.take();
        assert_eq!(it.facts(), first);
    }
    // A change shows, also one that is in the log only.
    let db = Connection::open(it.home().database()).unwrap();
    db.execute_batch("PRAGMA journal_mode=wal; INSERT INTO session VALUES ('ses_c', 'x');").unwrap();
    it.take();
    assert_eq!(sessions(&it.facts()).messages.len(), 3);
    db.execute_batch("INSERT INTO session VALUES ('ses_d', 'x');").unwrap();
    it.take();
    assert_eq!(sessions(&it.facts()).messages.len(), 4);
    drop(db);
}

// ---- in the store ----

#[test]
fn a_check_of_the_content_reads_the_facts() {
    let it = Deployment::new();
    write_sessions(&it.home().database(), &["ses_a"]);
    it.take();
    let check = |level: &str, source: &str| {
        let mut command = it.bench.command();
        command.args(["check", "--json", "--level", level, "--source", source]);
        command.env("OPSCTL_IDENTITY_FILE", &it.bench.identity);
        run(command)
    };
    let own = it.bench.receipts().remove(0)["source"].as_str().unwrap().to_owned();
    check("decrypt", &own).ok();
    let mut forge = Forge::new(&it.bench);
    let mut lie = |source: &str, facts: &dyn Fn(&mut Forge<'_>) -> Value| {
        let mut root = forge.root(&texts(&[entry("", "dir")]));
        root["facts"] = facts(&mut forge);
        let receipt = forge.receipt(source, &root);
        forge.commit(&receipt);
    };
    lie("good", &|forge| forge.chunks(&[r#"{"service":"x"}"#]).remove(0));
    lie("no-facts", &|forge| forge.chunks(&["no facts"]).remove(0));
    lie("too-long", &|forge| {
        let mut extent = forge.chunks(&[r#"{"service":"y"}"#]).remove(0);
        extent["l"] = json!(1000);
        extent
    });
    lie("elsewhere", &|forge| {
        let mut extent = forge.chunks(&[r#"{"service":"z"}"#]).remove(0);
        extent["p"] = json!("00".repeat(32));
        extent
    });
    check("decrypt", "good").ok();
    for source in ["no-facts", "too-long"] {
        check("hash", source).ok();
        let done = check("decrypt", source).ended(4);
        assert_eq!(done.json["damaged"].as_array().map(Vec::len), Some(1), "{}", done.stdout);
    }
    // Of a snapshot that no pinned signer has signed nothing is read.
    let identity = std::fs::read_to_string(&it.bench.identity).unwrap();
    let without_pins: Vec<&str> = identity.lines().filter(|line| !line.contains("opsctl-signer")).collect();
    let without_pins = it.bench.dir.write("without-pins", without_pins.join("\n"));
    for (identity, is_shown) in [(&it.bench.identity, true), (&without_pins, false)] {
        let mut command = it.bench.command();
        command.args(["show", "latest", "--json", "--source", &own]).env("OPSCTL_IDENTITY_FILE", identity);
        assert_eq!(!run(command).ok().json["facts"].is_null(), is_shown);
    }
    // Whoever shows such a snapshot shows the rest of it.
    let mut command = it.bench.command();
    command.args(["show", "latest", "--json", "--source", "no-facts"]).env("OPSCTL_IDENTITY_FILE", &it.bench.identity);
    let done = run(command).ok();
    assert!(done.json["facts"].is_null() && done.stderr.contains("is not shown"), "{}", done.stderr);
    let done = check("decrypt", "elsewhere").ended(4);
    assert!(done.says("which the pack list does not name"), "{}", done.stdout);
}

#[test]
fn facts_make_no_pack_of_their_own_and_their_pack_is_listed() {
    let it = Deployment::new();
    write_sessions(&it.home().database(), &["ses_a"]);
    it.take();
    let with = it.bench.objects_in("packs/").len();
    let foreign = Bench::new();
    foreign.dir.write("tree/a/b", "a");
    foreign.take();
    assert_eq!(with, foreign.objects_in("packs/").len());
    // Only the facts change: their chunk is new, and the packs of the tree stay in use.
    let server = OpenWork::boot(Version::V0_11_135, &it.bench.tree, Engine::Unconfigured);
    run(it.snapshot_command(&["--service-url", &server.url()])).ok();
    assert_eq!(it.facts().versions["server"], "0.11.135");
    let mut command = it.bench.command();
    command.args(["check", "--level", "decrypt"]).env("OPSCTL_IDENTITY_FILE", &it.bench.identity);
    run(command).ok();
}

// ---- versions ----

/// The versions that were recorded, and what was said, with this token in the environment.
fn told(it: &Deployment, server: &OpenWork, token: &str) -> (Value, support::opsctl::Done) {
    let mut command = it.snapshot_command(&["--service-url", &server.url(), "-vv"]);
    command.env("OPENWORK_TOKEN", token);
    let done = run(command).ok();
    assert!(!done.says(token), "the token shows");
    (json!(it.facts().versions), done)
}

#[test]
fn the_engine_that_runs_is_recorded_and_not_the_one_that_the_server_was_made_with() {
    let it = Deployment::new();
    write_sessions(&it.home().database(), &["ses_a"]);
    let engine = Engine::memory(NEW, &it.workspace(), &[]);
    let server = OpenWork::boot(Version::V0_18_16, &it.bench.tree, engine);
    let (versions, done) = told(&it, &server, openwork::CLIENT);
    assert_eq!(versions, json!({"server": "0.18.16", "opencode-pin": "1.17.11", "opencode": NEW}));
    assert_eq!(it.bench.receipts().remove(0)["versions"], versions);
    assert!(!done.says("not recorded"), "{}", done.stderr);
    // Without a good token, and with a dead engine: the rest is recorded.
    let without = json!({"server": "0.18.16", "opencode-pin": "1.17.11"});
    let (versions, done) = told(&it, &server, "a-token-that-nobody-made");
    assert!(versions == without && done.says("the running version of opencode is not recorded"), "{}", done.stderr);
    server.fault(|faults| faults.engine_dead = true);
    assert_eq!(told(&it, &server, openwork::CLIENT).0, without);
    server.fault(|faults| (faults.engine_dead, faults.endless) = (false, Some("/opencode/global/health".to_owned())));
    let (versions, done) = told(&it, &server, openwork::CLIENT);
    assert!(versions == without && done.says("did not answer as expected"), "{}", done.stderr);
}

#[test]
fn the_token_goes_to_the_service_that_was_named_and_nowhere_else() {
    let it = Deployment::new();
    write_sessions(&it.home().database(), &["ses_a"]);
    let elsewhere = it.bench.dir.mkdir("elsewhere");
    let other = OpenWork::boot(Version::V0_18_16, &elsewhere, Engine::memory(NEW, &elsewhere, &[]));
    let server = OpenWork::boot(Version::V0_18_16, &it.bench.tree, Engine::Unconfigured);
    server.fault(|faults| faults.redirect = Some(other.url()));
    let (versions, done) = told(&it, &server, openwork::CLIENT);
    assert!(versions.get("opencode").is_none() && done.says("sends whoever asks elsewhere"), "{}", done.stderr);
    assert_eq!(other.seen(), [] as [String; 0], "nor is anything asked there without it");
}
