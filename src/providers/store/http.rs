//! The HTTP client of the cloud backends: lets `object_store` report exactly what the server answered.
//!
//! Left to itself, `object_store` hides the status of most failures behind private types, and retries some of them
//! unseen. This wrapper turns every answer that is not a success into an [`HttpFault`], which stays in the chain of
//! causes where `error::classify` finds it; and an answer to a range request that is not that range, too. From a LIST it
//! takes the names that would make `object_store` give up on all of it (`listing.rs`).
//!
//! Invariants:
//! * No redirect is followed: a PUT that ends as a GET of some page would pass for stored, and signatures hold for one
//!   host anyway.
//! * A LIST that is answered with anything but a whole listing is a failure of the store, never an empty store.
//! * `object_store` itself never retries (see [`no_inner_retries`]): `retry.rs` is the only place that does, so tries
//!   do not multiply and each one is logged and counted.
//! * Of a page of a LIST at most 64 MiB are read: the largest real ones have 10.
//! * Of an error body at most 64 KiB are read, and only its code and message are kept: the rest may repeat key ids,
//!   signatures or e-mail addresses.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions, RetryConfig};

use super::listing;

const MAX_ERROR_BODY: usize = 64 * 1024;
const MAX_PAGE: usize = 64 * 1024 * 1024;
const MAX_MESSAGE: usize = 200;
/// What a success counts as that answers a LIST without a listing: a failure of the server.
const NO_LISTING: u16 = 500;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What one request may take with its body: long enough for one pack of 28 MiB over a line of 1 Mbit/s.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// An HTTP answer that is not the success that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpFault {
    /// The status; 200 or 206 if the answer to a range request is not that range; [`NO_LISTING`].
    pub(super) status: u16,
    /// The store's own code (`SlowDown`), or empty.
    pub(super) code: String,
    /// The store's own explanation, or empty.
    pub(super) message: String,
}

impl fmt::Display for HttpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for HttpFault {}

/// No retries inside `object_store`: `retry.rs` makes up to 8 tries of its own, and 8 × 10 silent ones behind them
/// would hide an outage for half an hour.
pub(super) fn no_inner_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Makes clients that report faults as [`HttpFault`].
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// What one request may take with its body.
    pub(super) timeout: Duration,
    /// Counts what is sent.
    pub(super) sent: Arc<AtomicU64>,
}

impl Connector {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, sent: Arc::default() }
    }

    /// The client options of every cloud backend.
    pub(super) fn options(&self, allow_http: bool) -> ClientOptions {
        ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(self.timeout)
            .with_allow_http(allow_http)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let option = |key| options.get_config_value(&key);
        // Some clients of `object_store`'s own, for credentials, ask for shorter times.
        let time = |key, otherwise| {
            let given = option(key).and_then(|text| text.parse::<jiff::SignedDuration>().ok());
            given.and_then(|time| time.try_into().ok()).unwrap_or(otherwise)
        };
        let client = reqwest::Client::builder()
            .user_agent(concat!("opsctl/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .connect_timeout(time(ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT))
            .timeout(time(ClientConfigKey::Timeout, self.timeout))
            .https_only(option(ClientConfigKey::AllowHttp).as_deref() != Some("true"))
            .build()
            .map_err(|source| object_store::Error::Generic { store: "http", source: source.into() })?;
        Ok(HttpClient::new(FaultReporter { inner: HttpClient::new(client), sent: Arc::clone(&self.sent) }))
    }
}

#[derive(Debug)]
struct FaultReporter {
    inner: HttpClient,
    sent: Arc<AtomicU64>,
}

impl HttpService for FaultReporter {
    // What `async fn` in this trait stands for, written out: the trait is made by the `async_trait` macro.
    fn call<'life, 'future>(&'life self, request: HttpRequest) -> BoxFuture<'future, Result<HttpResponse, HttpError>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let wants_range = request.headers().contains_key("range");
            let is_get = request.method().as_str() == "GET";
            let list = request.uri().query().filter(|_| is_get).and_then(listing::elements);
            self.sent.fetch_add(1, Ordering::Relaxed);
            let response = self.inner.execute(request).await?;
            let status = response.status().as_u16();
            let served = response.headers().get("content-range").filter(|_| status == 206);
            // Azurite serves a range even of an object of no bytes, and announces `bytes 0--1/0`.
            let is_empty = served.is_some_and(|range| range.as_bytes().ends_with(b"/0"));
            if response.status().is_success() && (served.is_some() && !is_empty || !wants_range) {
                return match list {
                    Some(elements) => tolerable_page(response, elements).await,
                    None => Ok(response),
                };
            }
            let fault = if wants_range && is_empty {
                HttpFault { status: 416, code: String::new(), message: "the object is empty".into() }
            } else if response.status().is_success() {
                // Dropped unread: the body is the whole object.
                HttpFault { status, code: String::new(), message: "not the range that was asked for".into() }
            } else {
                let body = error_body(response.into_body()).await;
                HttpFault { status, code: field(&body, "code"), message: field(&body, "message") }
            };
            // `Unknown` is the kind that `object_store` never retries.
            Err(HttpError::new(HttpErrorKind::Unknown, fault))
        })
    }
}

/// A page of a LIST that `object_store` can read.
async fn tolerable_page(response: HttpResponse, elements: (&str, &str)) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let mut page = Vec::new();
    let mut pieces = body.bytes_stream();
    while let Some(piece) = pieces.next().await {
        page.extend_from_slice(&piece?);
        if page.len() > MAX_PAGE {
            let message = "a page of a LIST that is larger than any real one".into();
            let fault = HttpFault { status: 400, code: String::new(), message };
            return Err(HttpError::new(HttpErrorKind::Unknown, fault));
        }
    }
    if !listing::is_whole(&page, elements) {
        let text = String::from_utf8_lossy(&page[..page.len().min(MAX_ERROR_BODY)]);
        let said = [field(&text, "code"), field(&text, "message")].join(" ");
        let message = format!("a success that holds no listing {}", said.trim());
        let fault = HttpFault { status: NO_LISTING, code: String::new(), message: message.trim().into() };
        return Err(HttpError::new(HttpErrorKind::Unknown, fault));
    }
    let page = listing::tolerable(&page, elements).unwrap_or(page);
    Ok(HttpResponse::from_parts(parts, page.into()))
}

/// The start of an error body. A body that cannot be read is no reason to lose the status.
async fn error_body(body: HttpResponseBody) -> String {
    let mut text = Vec::new();
    let mut parts = body.bytes_stream();
    while let Some(Ok(part)) = parts.next().await {
        text.extend_from_slice(&part[..part.len().min(MAX_ERROR_BODY - text.len())]);
        if text.len() == MAX_ERROR_BODY {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// One element of an XML error, or one member of a JSON error, by its lower-case name. Errors of S3, GCS and Azure
/// are flat enough for this; anything else gives an empty text.
fn field(body: &str, name: &str) -> String {
    let lower = body.to_ascii_lowercase();
    let xml = || {
        let start = lower.find(&format!("<{name}>"))? + name.len() + 2;
        let length = lower[start..].find("</")?;
        Some(&body[start..start + length])
    };
    let json = || {
        let start = lower.find(&format!("\"{name}\":"))? + name.len() + 3;
        let value = body[start..].trim_start().strip_prefix('"')?;
        value.split('"').next()
    };
    let text = xml().or_else(json).unwrap_or_default();
    // One line, bounded, and nothing that a terminal would obey.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect::<String>().trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_message_are_taken_and_nothing_else() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce\u{1b}[31m\nyour rate</Message>\
                   <AWSAccessKeyId>AKIAXXXX</AWSAccessKeyId></Error>";
        assert_eq!(field(xml, "code"), "SlowDown");
        assert_eq!(field(xml, "message"), "Reduce [31m your rate");
        let json = r#"{"error": {"code": 404, "message": "No such bucket", "other": 1}}"#;
        assert_eq!((field(json, "message"), field(json, "code")), ("No such bucket".into(), String::new()));
        assert_eq!(field("<html>", "code"), "");
        assert_eq!(field(&format!("<code>{}</code>", "x".repeat(5000)), "code").len(), MAX_MESSAGE);
    }
}
