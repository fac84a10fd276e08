//! Asks the service.
//!
//! Invariants:
//! * A token goes to the host that was named and to no other ([`Address::client`]).
//! * A request has its time limit and its answer a size limit, whatever the other side sends. Lists have longer and larger ones.
//! * No message holds a token, or what an answer said.

use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::profile::{Identity, Method, Send};
use crate::providers::address::Address;
use crate::{Error, Result};

/// What is read of an ordinary answer.
const ORDINARY: usize = 1 << 20;
/// What is read where only the status counts: most answers are shorter, and then the connection can be used again.
const SKIMMED: usize = 64 << 10;
/// What is read of a list.
const LIST: usize = 64 << 20;
/// Tries of a request that changes nothing.
const TRIES: usize = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// For one answer that is no list, unless all has to be over sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer that could be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("nothing listens there: the connection is refused")]
    Refused,
    #[error("the name of the host is not known")]
    UnknownHost,
    #[error("no encrypted connection: {0}")]
    Tls(String),
    #[error("no whole answer within {} s", .0.as_secs_f64())]
    Slow(Duration),
    #[error("there was no time left to ask")]
    Late,
    #[error("the answer is larger than {} MiB", .0 >> 20)]
    Large(usize),
    #[error("it redirects {0}")]
    Redirect(String),
    #[error("the connection failed: {0}")]
    Broken(String),
}

impl Trouble {
    /// What to do about it.
    pub(super) const fn fix(&self) -> &'static str {
        match self {
            Self::Refused => "start the service, or correct host and port of the URL",
            Self::UnknownHost => "correct the host of the URL, or look at the DNS record of the service",
            Self::Tls(_) => {
                "renew or correct the certificate of the host; a token is not sent to a host that cannot be told"
            }
            Self::Slow(_) | Self::Late => "look at the log and the load of the service",
            Self::Large(_) => "this is not the service that was expected: check the URL",
            Self::Redirect(_) => "give the URL that it redirects to, if that is the service: no token is sent along",
            Self::Broken(_) => "look at the log of the service and of what is in front of it",
        }
    }

    /// Whether waiting can mend it. A wrong certificate or another host does not become right with time.
    pub(super) const fn passes(&self) -> bool {
        !matches!(self, Self::Tls(_) | Self::Redirect(_) | Self::Large(_))
    }

    /// Whether an answer comes, but slower or larger than anybody can wait for.
    pub(super) const fn is_much(&self) -> bool {
        matches!(self, Self::Slow(_) | Self::Late | Self::Large(_))
    }

    fn of(error: &reqwest::Error, is_encrypted: bool, patience: Duration) -> Self {
        use std::io::ErrorKind;
        if error.is_timeout() {
            return Self::Slow(patience);
        }
        if error.is_dns() {
            return Self::UnknownHost;
        }
        let mut text = String::new();
        let mut kinds = Vec::new();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text = cause.to_string();
            let mut io = cause.downcast_ref::<std::io::Error>();
            while let Some(error) = io {
                kinds.push(error.kind());
                // One in another is not among its causes.
                io = error.get_ref().and_then(|inner| inner.downcast_ref());
            }
            next = cause.source();
        }
        let is = |kind: ErrorKind| kinds.contains(&kind);
        if is(ErrorKind::ConnectionRefused) {
            return Self::Refused;
        }
        let is_handshake = is(ErrorKind::InvalidData) || is(ErrorKind::UnexpectedEof);
        if is_encrypted && error.is_connect() && is_handshake { Self::Tls(text) } else { Self::Broken(text) }
    }
}

/// Who asks: the headers that show it.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller(HeaderMap);

impl Caller {
    /// Somebody with a token, as an identity of the profile shows it.
    pub(super) fn new(identity: &Identity, token: &SecretString) -> Result<Self> {
        let mut caller = Self::with(&identity.send, token)?;
        for (name, value) in &identity.headers {
            let bad = || Error::usage(format!("the identity `{}` sends a header that is none", identity.name));
            let name = HeaderName::try_from(name).map_err(|_| bad())?;
            caller.0.insert(name, HeaderValue::try_from(value).map_err(|_| bad())?);
        }
        Ok(caller)
    }

    /// Somebody with nothing but a token.
    pub(super) fn with(send: &Send, token: &SecretString) -> Result<Self> {
        // The token is not repeated.
        let bad =
            || Error::usage("a token holds characters that no header can carry").hint("look at where it comes from");
        let secret = token.expose_secret();
        let (name, value) = match send {
            Send::Bearer => (AUTHORIZATION, HeaderValue::try_from(format!("Bearer {secret}"))),
            Send::Header(name) => (HeaderName::try_from(name).map_err(|_| bad())?, HeaderValue::try_from(secret)),
        };
        let mut value = value.map_err(|_| bad())?;
        value.set_sensitive(true);
        Ok(Self(HeaderMap::from_iter([(name, value)])))
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    method: Method,
    path: &'a str,
    caller: &'a Caller,
    body: Option<&'a serde_json::Value>,
    limit: usize,
    /// Whether it grows with the data, and takes its time.
    is_list: bool,
    /// Whether the status is all that counts: then a body that is too much is no trouble.
    skims: bool,
}

impl<'a> Ask<'a> {
    pub(super) const fn get(path: &'a str, caller: &'a Caller) -> Self {
        Self::new(Method::Get, path, caller)
    }

    pub(super) const fn new(method: Method, path: &'a str, caller: &'a Caller) -> Self {
        Self { method, path, caller, body: None, limit: ORDINARY, is_list: false, skims: false }
    }

    /// For an answer that grows with the data.
    pub(super) const fn list(mut self) -> Self {
        (self.limit, self.is_list) = (LIST, true);
        self
    }

    /// For an answer of which nothing but the status counts.
    pub(super) const fn skim(mut self) -> Self {
        (self.limit, self.skims) = (SKIMMED, true);
        self
    }

    pub(super) const fn json(mut self, body: &'a serde_json::Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    redirects: Option<String>,
}

impl Answer {
    /// Its body, if that is JSON.
    pub(super) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// Its status in words, with the host of a redirect.
    pub(super) fn in_words(&self) -> String {
        match &self.redirects {
            Some(to) => format!("{} and redirects {to}", self.status),
            None => self.status.to_string(),
        }
    }

    /// The trouble that a redirect is where none belongs.
    pub(super) fn redirect(&self) -> Option<Trouble> {
        self.redirects.clone().map(Trouble::Redirect)
    }
}

/// A way to the service.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    address: Address,
    /// For one answer; nobody waits longer than [`PATIENCE`] for one that is no list.
    patience: Duration,
    /// When all has to be over; then each request is made once.
    until: Option<Instant>,
}

impl Http {
    /// A way to `address`; no request takes longer than `patience`.
    pub(super) fn new(address: &Address, patience: Duration) -> Result<Self> {
        Ok(Self { client: address.client()?, address: address.clone(), patience, until: None })
    }

    /// The same in a hurry: all requests together have this time, and each is made once.
    pub(super) fn within(&self, limit: Duration) -> Self {
        Self { until: Some(Instant::now() + limit), ..self.clone() }
    }

    /// Whether there is little time left.
    pub(super) const fn is_hurried(&self) -> bool {
        self.until.is_some()
    }

    /// How long this answer may take.
    fn patience(&self, ask: &Ask<'_>) -> Duration {
        let patience = if ask.is_list { self.patience } else { self.patience.min(PATIENCE) };
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        left.map_or(patience, |left| left.min(patience))
    }

    /// Asks. What changes nothing is asked again where the way to the service was at fault.
    pub(super) async fn send(&self, ask: Ask<'_>) -> Result<Answer, Trouble> {
        let tries = if ask.method == Method::Get && !self.is_hurried() { TRIES } else { 1 };
        let mut answer = self.once(ask).await;
        for _ in 1..tries {
            let is_transient = match &answer {
                Ok(answer) => matches!(answer.status, 502..=504),
                Err(trouble) => matches!(trouble, Trouble::Broken(_) | Trouble::Refused),
            };
            if !is_transient {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            answer = self.once(ask).await;
        }
        answer
    }

    /// Asks once.
    pub(super) async fn once(&self, ask: Ask<'_>) -> Result<Answer, Trouble> {
        let method = match ask.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let url = format!("{}{}", self.address.shown(), ask.path);
        let patience = self.patience(&ask);
        if patience.is_zero() {
            return Err(Trouble::Late);
        }
        let mut request = self.client.request(method, url).headers(ask.caller.0.clone()).timeout(patience);
        if let Some(body) = ask.body {
            request = request.json(body);
        }
        let trouble = |error: reqwest::Error| Trouble::of(&error, self.address.is_encrypted(), patience);
        let mut response = request.send().await.map_err(trouble)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let redirects = status.is_redirection().then(|| self.address.redirect(headers.get(LOCATION)));
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => break,
                Ok(Some(piece)) if body.len() + piece.len() <= ask.limit => body.extend_from_slice(&piece),
                _ if ask.skims => break,
                Ok(Some(_)) => return Err(Trouble::Large(ask.limit)),
                Err(error) => return Err(trouble(error)),
            }
        }
        Ok(Answer { status: status.as_u16(), headers, body, redirects })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_take_as_long_as_the_service_may_and_nothing_longer_than_all_together() {
        let address = Address::parse("http://127.0.0.1:9", "--url").unwrap();
        let nobody = Caller::default();
        let (one, list) = (Ask::get("/x", &nobody), Ask::get("/x", &nobody).list());
        let patient = Http::new(&address, Duration::from_secs(60)).unwrap();
        assert_eq!((patient.patience(&one), patient.patience(&list)), (PATIENCE, Duration::from_secs(60)));
        let short = Http::new(&address, Duration::from_secs(2)).unwrap();
        assert_eq!((short.patience(&one), short.patience(&list)), (Duration::from_secs(2), Duration::from_secs(2)));
        assert!(patient.within(Duration::from_secs(1)).patience(&list) <= Duration::from_secs(1));
    }

    #[test]
    fn who_asks_is_never_shown() {
        let token = SecretString::from("hunter2");
        for send in [Send::Bearer, Send::Header("X-Host-Token".to_owned())] {
            assert!(!format!("{:?}", Caller::with(&send, &token).unwrap()).contains("hunter2"));
            let broken = Caller::with(&send, &SecretString::from("hunter2\nX: y")).unwrap_err();
            assert!(!format!("{broken:?}").contains("hunter2"), "{broken:?}");
        }
    }
}
