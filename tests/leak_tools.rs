//! The tools that look for secrets find them, and what the program does about its memory takes them away.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

#[path = "support/again.rs"]
mod again;
#[path = "support/calls.rs"]
mod calls;
#[path = "support/leaks/mod.rs"]
mod leaks;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use again::{Held, again, hold, role};
use leaks::canary::word;
use leaks::{Canary, Ending, Form, Place, Trace, copies};
use opsctl::providers::wiped;
use opsctl::secret::Secret;
use opsctl::wiping::Wiping;
use serde::{Deserialize, Serialize};
use support::TestDir;
use support::opsctl::Guarded;
use zeroize::Zeroizing;

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

const SENT: u64 = 1;
const ANSWERED: u64 = 2;

/// How many copies of the values the process of this role has left, of what it sent and of what it was answered.
fn left(test: &str, role: &str) -> (usize, usize) {
    let held = Held::start(&mut again(test, role));
    let count = |seed| {
        let found = copies(held.pid(), word(seed).as_bytes());
        println!("{role}, {seed}: {found:?}");
        found.len()
    };
    let counts = (count(SENT), count(ANSWERED));
    held.go_on();
    counts
}

// ---- a value in memory ----

/// A text with the value far enough inside that what the allocator writes into a free block does not touch it.
fn long(value: &Secret) -> String {
    format!("{:40}{}", "", value.expose())
}

fn remember(role: &str) {
    let (how, what) = role.split_once(' ').unwrap();
    if how == "wiping" {
        opsctl::wiping::turn_on();
    }
    // Made without a copy: of what is made on the way, the value is no part.
    let value = Secret::new(&Zeroizing::new(word(SENT)));
    match what {
        "kept" => {
            let (one, two) = (long(&value), long(&value));
            hold();
            drop((one, two, value));
        }
        "dropped" => {
            drop(long(&value));
            drop(value);
            hold();
        }
        "grown" => {
            let mut grown = Zeroizing::new(long(&value).into_bytes());
            // Behind it, so that it has to move.
            let behind = [vec![1_u8; 80], vec![1_u8; 80]];
            grown.reserve_exact(1000);
            drop((grown, behind, value));
            hold();
        }
        "shrunk" => {
            let mut shrunk = format!("{:1000}{}", "", value.expose()).into_bytes();
            shrunk.truncate(10);
            shrunk.shrink_to_fit();
            drop((shrunk, value));
            hold();
        }
        "hidden" => {
            let value = value.hidden();
            assert_eq!(opsctl::secret::blank(&long(&value)).trim(), "…");
            drop(value);
            opsctl::secret::forget();
            hold();
        }
        other => panic!("no {other}"),
    }
}

#[test]
fn what_is_freed_is_found_in_memory_unless_it_is_wiped() {
    if let Some(role) = role() {
        return remember(&role);
    }
    let count = |role: &str| left("what_is_freed_is_found_in_memory_unless_it_is_wiped", role).0;
    assert_eq!(count("plain kept"), 3);
    assert_eq!(count("wiping kept"), 3);
    for what in ["dropped", "grown", "shrunk"] {
        assert!(count(&format!("plain {what}")) > 0, "{what}: the scan finds what is left");
        assert_eq!(count(&format!("wiping {what}")), 0, "{what}");
    }
    assert_eq!(count("wiping hidden"), 0);
}

// ---- a value sent and received ----

#[derive(Serialize)]
struct Sent<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Deserialize)]
struct Answered {
    value: Secret,
}

/// Answers each request with the second value, on as many connections as there come, and returns its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = BufReader::new(stream.unwrap());
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

fn serve(mut stream: BufReader<TcpStream>) {
    let answer = format!("{{\"name\": \"x\", \"value\": \"{}\", \"more\": [1, 2, 3]}}", word(ANSWERED));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
    let (mut length, mut line) = (0, String::new());
    while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
        if let Some(number) = line.to_lowercase().strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
        if line == "\r\n" {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            assert!(String::from_utf8(body).unwrap().contains(&word(SENT)));
            stream.get_mut().write_all(format!("{head}{answer}").as_bytes()).unwrap();
        }
        line.clear();
    }
}

async fn ask(client: &reqwest::Client, url: &str, is_naive: bool, value: &Secret) -> Secret {
    let sent = Sent { name: "x", value: value.expose() };
    if is_naive {
        let response = client.post(url).json(&sent).send().await.unwrap();
        let answered: serde_json::Value = response.json().await.unwrap();
        return Secret::new(answered["value"].as_str().unwrap());
    }
    let body = wiped::body(wiped::json(&sent).unwrap());
    let response = client.post(url).header("content-type", "application/json").body(body).send().await.unwrap();
    let buffer = wiped::read(response, 1 << 20).await.unwrap();
    serde_json::from_slice::<Answered>(&buffer).unwrap().value
}

/// Several requests of one client.
fn exchange(role: &str) {
    let words: Vec<&str> = role.split(' ').collect();
    if words[0] == "wiping" {
        opsctl::wiping::turn_on();
    }
    let url = words[2];
    let value = Secret::new(&Zeroizing::new(word(SENT)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // The certificate of a test; what is copied does not depend on who vouches for it.
        let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
        for _ in 0..REQUESTS {
            let answered = ask(&client, url, words[1] == "naive", &value).await;
            assert_eq!(answered.expose().len(), 40);
        }
    });
    drop(runtime);
    drop(value);
    hold();
}

const REQUESTS: usize = 3;

#[test]
fn a_round_trip_over_http_leaves_nothing_in_memory() {
    if let Some(role) = role() {
        return exchange(&role);
    }
    let count = |how: &str| {
        let port = server();
        let relay = how.starts_with("tls").then(|| encrypting(port));
        let url = relay
            .as_ref()
            .map_or(format!("http://127.0.0.1:{port}/"), |(_, port)| format!("https://127.0.0.1:{port}/"));
        let role = format!("{} {url}", how.trim_start_matches("tls "));
        left("a_round_trip_over_http_leaves_nothing_in_memory", &role)
    };
    for how in ["plain naive", "plain careful", "tls plain naive", "tls plain careful"] {
        let (sent, answered) = count(how);
        assert!(sent + answered > 0, "{how}: the libraries leave copies, or this test proves nothing");
    }
    for how in ["wiping naive", "wiping careful", "tls wiping naive", "tls wiping careful"] {
        assert_eq!(count(how), (0, 0), "{how}");
    }
}

/// A server that takes TLS off and passes on what it gets, and its port.
fn encrypting(to: u16) -> (Guarded, u16) {
    let dir = TestDir::new();
    let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
    assert!(made.is_ok_and(|made| made.status.success()), "openssl is missing: run `make tools`");
    let script = "
import asyncio, ssl, sys
async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def relay(reader, writer):
    to = await asyncio.open_connection('127.0.0.1', int(sys.argv[3]))
    await asyncio.gather(copy(reader, to[1]), copy(to[0], writer))
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[1])
    server = await asyncio.start_server(relay, '127.0.0.1', 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&key).arg(&certificate).arg(to.to_string());
    let mut server = Guarded::spawn(&mut python);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().parse().unwrap())
}

// ---- the end of a process ----

#[test]
fn a_process_is_looked_at_when_it_is_about_to_end() {
    if let Some(role) = role() {
        let value = Secret::new(&word(SENT));
        println!("work is done");
        if role == "keeps" {
            std::mem::forget(value);
        }
        return;
    }
    let dir = TestDir::new();
    let test = "a_process_is_looked_at_when_it_is_about_to_end";
    for (role, at_least) in [("keeps", 1), ("drops", 0)] {
        let ending = Ending::of(&again(test, role), &dir.join("strace"));
        assert!(copies(ending.pid, word(SENT).as_bytes()).len() >= at_least, "{role}");
        assert!(copies(ending.pid, word(ANSWERED).as_bytes()).is_empty(), "what it never had");
        let (out, _) = ending.go_on();
        assert!(String::from_utf8(out).unwrap().contains("work is done"));
    }
}

// ---- what a command gives to the system ----

#[test]
fn each_place_that_a_value_goes_to_is_seen() {
    let dir = TestDir::new();
    let names = ["file", "argument", "variable", "name", "pipe", "socket", "pieces", "base64"];
    let canaries: Vec<Canary> = names.iter().zip(100..).map(|(name, seed)| Canary::odd(name, seed)).collect();
    let it = |name: &str| canaries.iter().find(|canary| canary.name == name).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // By files, so that the arguments and variables of this command hold none of them but two.
    for canary in &canaries {
        dir.write(format!("in/{}", canary.name), &canary.value);
    }
    let name = word(7);
    dir.write("in/name", &name);
    let script = r#"
        tail -c 10000 in/file > out
        env V="$(cat in/variable)" true "$(cat in/argument)"
        : > "$(cat in/name)"
        cat in/pipe | tail -c 10000 > /dev/null
        cat in/socket > /dev/tcp/127.0.0.1/$0
        { head -c 20 in/pieces; tail -c +21 in/pieces; } > pieces
        { printf 'user:'; cat in/base64; } | base64 -w 0 > base64
    "#;
    let mut command = Command::new("bash");
    command.args(["-c", &format!("cd '{}'; {script}", dir.path().display()), &port.to_string()]);
    command.env_clear().envs(support::clean_env());
    let trace = Trace::of(&command, &dir.join("strace"));
    assert_eq!(trace.done.code, 0, "{}", trace.done.stderr);
    let file = |name: &str| Place::File(dir.join(name).to_str().unwrap().to_owned());
    let seen = |name: &str, program: &str, form: Form| -> Vec<Place> {
        let mut seen = trace.seen(it(name));
        seen.retain(|(who, _, forms)| *who == program && forms.contains(&form));
        seen.into_iter().map(|(_, place, _)| place.clone()).collect()
    };
    assert_eq!(seen("file", "tail", Form::Whole), [file("out")]);
    assert_eq!(seen("argument", "true", Form::Whole), [Place::Arguments]);
    assert_eq!(seen("variable", "true", Form::Whole), [Place::Environment]);
    assert_eq!(seen("pipe", "cat", Form::Whole), [Place::Pipe(vec!["tail".into()])]);
    assert_eq!(seen("pipe", "tail", Form::Whole), [Place::Device("/dev/null".into())]);
    let connection = seen("socket", "cat", Form::Whole);
    assert!(
        matches!(&connection[..], [Place::Socket(shown)] if shown.contains(&format!(":{port}]"))),
        "{connection:?}"
    );
    // In two pieces by two programs; either is long enough to be known.
    assert_eq!(seen("pieces", "head", Form::Piece), [file("pieces")]);
    assert_eq!(seen("pieces", "tail", Form::Piece), [file("pieces")]);
    assert_eq!(seen("base64", "base64", Form::Base64), [file("base64")]);
    let named = trace.seen(&Canary::of("name", &name)).into_iter().map(|(_, place, _)| place);
    assert!(named.into_iter().any(|place| *place == Place::Call("openat".into())));
    assert!(trace.programs().is_superset(&["bash", "cat", "tail", "true", "base64"].into()), "{:?}", trace.programs());
}

#[test]
fn a_value_is_known_in_each_form_and_nothing_else_is_taken_for_it() {
    for canary in [Canary::word("a word", 1), Canary::odd("an odd one", 2), Canary::lines("a key", 3)] {
        for (form, shown) in canary.forms() {
            assert!(canary.found_in(format!("<{shown}>").as_bytes()).contains(&form), "{form:?}");
        }
        assert_eq!(canary.found_in(&canary.value.as_bytes()[28..40]), [Form::Piece]);
        for other in [Canary::word("b", 11), Canary::odd("b", 12), Canary::lines("b", 13)] {
            canary.is_not_in("another value", other.value.as_bytes());
        }
    }
}
