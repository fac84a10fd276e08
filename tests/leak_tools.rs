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
#[path = "support/leaks/mod.rs"]
mod leaks;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

use again::{Held, again, hold, role};
use leaks::canary::word;
use leaks::{Ending, copies};
use opsctl::providers::wiped;
use opsctl::secret::Secret;
use opsctl::wiping::Wiping;
use serde::{Deserialize, Serialize};
use support::TestDir;

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
    let value = Secret::new(&zeroize::Zeroizing::new(word(SENT)));
    match what {
        "kept" => {
            let (one, two) = (long(&value), long(&value));
            hold();
            drop((one, two, value));
        }
        "dropped" => {
            drop(long(&value));
            let mut grown = long(&value).into_bytes();
            for _ in 0..12 {
                grown.reserve_exact(grown.capacity());
            }
            grown.truncate(90);
            grown.shrink_to_fit();
            drop(std::hint::black_box(grown));
            drop(value);
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
    let count = |role| left("what_is_freed_is_found_in_memory_unless_it_is_wiped", role).0;
    assert_eq!(count("plain kept"), 3);
    assert_eq!(count("wiping kept"), 3);
    assert!(count("plain dropped") > 0, "the scan finds what is left");
    assert_eq!(count("wiping dropped"), 0);
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

/// Answers each request with the second value, once it has the first.
fn serve(listener: &TcpListener, requests: usize) {
    let answer = format!("{{\"name\": \"x\", \"value\": \"{}\", \"more\": [1, 2, 3]}}", word(ANSWERED));
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    for _ in 0..requests {
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if let Some(number) = line.to_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        assert!(String::from_utf8(body).unwrap().contains(&word(SENT)));
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.get_mut().write_all((head + &answer).as_bytes()).unwrap();
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

/// Several requests on one connection, of one that is then closed.
fn exchange(role: &str) {
    let words: Vec<&str> = role.split(' ').collect();
    if words[0] == "wiping" {
        opsctl::wiping::turn_on();
    }
    let url = format!("http://127.0.0.1:{}/", words[2]);
    let value = Secret::new(&zeroize::Zeroizing::new(word(SENT)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for _ in 0..REQUESTS {
            let answered = ask(&client, &url, words[1] == "naive", &value).await;
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let role = format!("{how} {}", listener.local_addr().unwrap().port());
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener, REQUESTS));
            left("a_round_trip_over_http_leaves_nothing_in_memory", &role)
        })
    };
    let (sent, answered) = count("plain naive");
    assert!(sent + answered > 0, "the usual way leaves copies");
    let (sent, answered) = count("plain careful");
    assert!(sent + answered > 0, "the libraries leave copies");
    assert_eq!(count("wiping naive"), (0, 0));
    assert_eq!(count("wiping careful"), (0, 0));
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
