//! The real S3 client against a server that answers as it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use object_store::PutPayload;

use super::tests::{env, fast};
use super::*;
use crate::ExitCode;

/// One request as the server saw it: `PUT /bucket/key`, and its headers in lower case.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    headers: String,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// Serves these answers in turn (status line, body), each on a connection of its own.
fn serve(answers: &[(&'static str, &'static str)]) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::default();
    let (seen, answers) = (Arc::clone(&log), answers.to_vec());
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            seen.lock().unwrap().push(answer(&stream, status, body));
        }
    });
    (endpoint, log)
}

fn answer(mut stream: &TcpStream, status: &str, body: &str) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") {
        reader.read_line(&mut headers).unwrap();
    }
    let headers = headers.to_lowercase();
    let length = headers.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink()).unwrap();
    let facts = "etag: \"1\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nconnection: close";
    // An answer may announce a length of its own.
    let length =
        if status.contains("content-length") { String::new() } else { format!("\r\ncontent-length: {}", body.len()) };
    write!(stream, "HTTP/1.1 {status}\r\n{facts}{length}\r\n\r\n{body}").unwrap();
    Seen { line: line.trim_end().trim_end_matches(" HTTP/1.1").into(), headers }
}

fn open(endpoint: &str) -> Store {
    let variables = env(&[
        ("AWS_ACCESS_KEY_ID", "AKIAHUNTER2"),
        ("AWS_SECRET_ACCESS_KEY", "secret-hunter2"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_S3_URL_STYLE", "path"),
    ]);
    Store::open(&Location::parse("s3://bucket/pre").unwrap(), &variables).unwrap().with_retry(fast())
}

fn lines(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
}

const LISTED: &str = "<ListBucketResult><Contents><Key>pre/a/k</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
    <ETag>1</ETag><Size>4</Size></Contents></ListBucketResult>";
const SLOW: &str = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
const NOT_IMPLEMENTED: &str = "<Error><Code>NotImplemented</Code><Message>header If-None-Match</Message></Error>";

#[tokio::test]
async fn a_taken_name_is_settled_by_one_list() {
    let (endpoint, log) = serve(&[("412 Precondition Failed", ""), ("200 OK", LISTED)]);
    let store = open(&endpoint);
    assert_eq!(store.create("a/k", PutPayload::from_static(b"1234")).await.unwrap(), Created::AlreadyThere);
    assert_eq!(lines(&log)[0], "PUT /bucket/pre/a/k");
    assert_eq!(lines(&log)[1], "GET /bucket?list-type=2&prefix=pre%2Fa%2F");
    let put = log.lock().unwrap()[0].headers.clone();
    assert!(put.contains("if-none-match: *") && put.contains("x-amz-checksum-sha256: "), "{put}");
}

#[tokio::test]
async fn the_list_starts_just_before_the_name_and_ends_after_it() {
    // More pages follow, but no more of them are asked for.
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
        <Contents><Key>pre/a/name2</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>1</ETag><Size>4</Size></Contents>\
        </ListBucketResult>";
    let (endpoint, log) = serve(&[("409 Conflict", ""), ("200 OK", page), ("200 OK", "")]);
    assert_eq!(open(&endpoint).create("a/name", PutPayload::from_static(b"1234")).await.unwrap(), Created::New);
    let expected = "GET /bucket?list-type=2&prefix=pre%2Fa%2F&start-after=pre%2Fa%2Fnam";
    assert_eq!(lines(&log), ["PUT /bucket/pre/a/name", expected, "PUT /bucket/pre/a/name"]);
}

#[tokio::test]
async fn every_try_is_ours() {
    let slow = ("503 Slow Down", SLOW);
    let (endpoint, log) = serve(&[slow, slow, ("500 Oops", ""), ("200 OK", "")]);
    let store = open(&endpoint);
    assert_eq!(store.create("k", PutPayload::from_static(b"1")).await.unwrap(), Created::New);
    assert_eq!((lines(&log).len(), store.stats().requests, store.stats().retries), (4, 4, 3));

    let (endpoint, log) = serve(&[slow; 8]);
    let error = open(&endpoint).get("k").await.unwrap_err();
    assert!(matches!(&error, StoreError::RateLimited { detail, .. } if detail.contains("reduce your")), "{error:?}");
    assert_eq!(lines(&log).len(), 4);
}

#[tokio::test]
async fn a_store_without_conditional_put_gets_a_plain_one() {
    let (endpoint, log) = serve(&[("501 Not Implemented", NOT_IMPLEMENTED), ("200 OK", "")]);
    let store = open(&endpoint);
    assert_eq!(store.create("k", PutPayload::from_static(b"1")).await.unwrap(), Created::New);
    assert!(!store.conditional_put());
    assert!(!log.lock().unwrap()[1].headers.contains("if-none-match"));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_found_out() {
    for status in ["200 OK", "206 Partial Content"] {
        let (endpoint, log) = serve(&[(status, "0123456789"), ("200 OK", "0123456789")]);
        let store = open(&endpoint);
        let error = store.get_range("k", 2..5).await.unwrap_err();
        assert_eq!(error, StoreError::RangeUnsupported { key: "k".into() });
        assert!(log.lock().unwrap()[0].headers.contains("range: bytes=2-4"));
        assert_eq!(&store.get("k").await.unwrap()[..], b"0123456789");
    }
    let ranged = "206 Partial Content\r\ncontent-range: bytes 8-9/10";
    let (endpoint, _) = serve(&[(ranged, "89"), (ranged, "89"), ("416 Range Not Satisfiable", "")]);
    let store = open(&endpoint);
    assert_eq!(&store.get_range("k", 8..10).await.unwrap()[..], b"89");
    let short = store.get_range("k", 8..12).await.unwrap_err();
    assert_eq!(short, StoreError::Short { key: "k".into(), wanted: 8..12, found: 2 });
    assert!(matches!(store.get_range("k", 10..12).await, Err(StoreError::Short { found: 0, .. })));
}

#[tokio::test]
async fn a_wrong_range_is_never_returned() {
    let (endpoint, _) = serve(&[("206 Partial Content\r\ncontent-range: bytes 0-2/10", "012")]);
    assert!(open(&endpoint).get_range("k", 2..5).await.is_err());
    // The right range is announced, and more than that is sent.
    let (endpoint, _) = serve(&[("206 Partial Content\r\ncontent-range: bytes 2-4/10", "2345"); 4]);
    let error = open(&endpoint).get_range("k", 2..5).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { detail, .. } if detail.starts_with("0 bytes")), "{error:?}");
}

#[tokio::test]
async fn a_cut_off_body_is_fetched_again() {
    let (endpoint, log) = serve(&[("200 OK\r\ncontent-length: 10", "01234"), ("200 OK", "0123456789")]);
    let store = open(&endpoint);
    assert_eq!(&store.get("k").await.unwrap()[..], b"0123456789");
    assert_eq!((lines(&log).len(), store.stats().retries), (2, 1));
}

#[tokio::test]
async fn list_reports_what_the_server_said() {
    let gone = "<Error><Code>NoSuchBucket</Code><Message>The bucket does not exist</Message></Error>";
    let refused = "<Error><Code>SignatureDoesNotMatch</Code><Message>Check your key.</Message>\
        <AWSAccessKeyId>AKIAHUNTER2</AWSAccessKeyId><StringToSign>hunter2</StringToSign></Error>";
    let (endpoint, _) = serve(&[("404 Not Found", gone), ("403 Forbidden", refused), ("200 OK", LISTED)]);
    let store = open(&endpoint);
    assert_eq!(store.list("").await.unwrap_err(), StoreError::NotFound { key: "s3://bucket/pre".into() });
    let denied = store.is_empty().await.unwrap_err();
    let error = crate::Error::from(denied.clone());
    assert_eq!(error.code(), ExitCode::Denied);
    let shown = format!("{denied:?} {error:?} {} {store:?}", error.full_message()).to_lowercase();
    assert!(shown.contains("signaturedoesnotmatch") && !shown.contains("hunter2"), "{shown}");
    let found = store.list("").await.unwrap();
    assert_eq!((found[0].key.as_str(), found[0].size), ("a/k", 4));
    assert_eq!(found[0].modified.to_string(), "2026-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let store = open(&format!("http://127.0.0.1:{port}"));
    let error = store.list("").await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { detail, .. } if detail.contains("refused")), "{error:?}");
    assert_eq!(store.stats().retries, 3);
}

#[tokio::test]
async fn a_foreign_name_does_not_end_a_list() {
    let odd = LISTED.replace("</ListBucketResult>", "<Contents><Key>pre/snapshots//x</Key><Size>1</Size></Contents>");
    let odd: &'static str = format!("{odd}<Contents><Key>pre/&#x1;</Key></Contents></ListBucketResult>").leak();
    let (endpoint, _) = serve(&[("200 OK", odd), ("412 Precondition Failed", ""), ("200 OK", odd)]);
    let store = open(&endpoint);
    let found: Vec<String> = store.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(found, ["a/k"]);
    assert_eq!(store.create("a/k", PutPayload::from_static(b"1234")).await.unwrap(), Created::AlreadyThere);
}

#[tokio::test]
async fn what_is_too_large_is_not_taken() {
    let (endpoint, _) = serve(&[("200 OK\r\ncontent-length: 9000000000000", "0123"), ("200 OK", "0123")]);
    let store = open(&endpoint);
    let error = store.get_at_most("k", 4).await.unwrap_err();
    assert_eq!(error, StoreError::TooLarge { key: "k".into(), size: 9_000_000_000_000, limit: 4 });
    assert_eq!(&store.get_at_most("k", 4).await.unwrap()[..], b"0123");
    assert_eq!(store.stats().bytes_received, 4);
}

/// A LIST that is answered with an error, with nothing, or with half a page must never look like an empty store.
#[tokio::test]
async fn what_is_no_listing_is_not_an_empty_store() {
    let cut: &'static str = &LISTED[..LISTED.len() - 30];
    for (body, detail) in
        [(SLOW, "SlowDown"), ("", "no listing"), ("<html>Welcome</html>", "no listing"), (cut, "no listing")]
    {
        let (endpoint, log) = serve(&[("200 OK", body), ("200 OK", LISTED)]);
        let store = open(&endpoint);
        assert_eq!(store.list("").await.unwrap().len(), 1, "{body}");
        assert_eq!((lines(&log).len(), store.stats().retries), (2, 1), "{body}");
        let (endpoint, _) = serve(&[("200 OK", body); 4]);
        let error = open(&endpoint).is_empty().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(detail), "{body}: {error:?}");
    }
}

/// A redirected PUT must never end as a GET of some page that is there.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (elsewhere, visited) = serve(&[("200 OK", "")]);
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"] {
        let answer: &'static str = format!("{status}\r\nlocation: {elsewhere}/page").leak();
        let (endpoint, log) = serve(&[(answer, ""), (answer, "")]);
        let store = open(&endpoint);
        let error = store.create("k", PutPayload::from_static(b"1")).await.unwrap_err();
        assert_eq!(crate::Error::from(error.clone()).code(), ExitCode::Usage, "{status}: {error:?}");
        assert!(store.get("k").await.is_err(), "{status}");
        assert_eq!(lines(&log), ["PUT /bucket/pre/k", "GET /bucket/pre/k"]);
    }
    assert_eq!(lines(&visited), [""; 0]);
}
