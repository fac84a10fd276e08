//! One GraphQL request over HTTP: sent, repeated where that does no harm, and its answer.
//!
//! Invariants:
//! * The token goes to the end point and nowhere else, and encrypted unless that is this machine.
//! * The URL always has a query: without one Cloudflare, which stands before Railway, limits requests much sooner.
//! * What is not [`Repeat::Read`] or [`Repeat::Write`] is sent once.
//! * Bodies are in buffers that are wiped; no error of the JSON parser is shown, for it repeats what it does not expect.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use cynic::Operation;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use super::error::{Failure, Repeat, Task, Telling, Token, Why};
use crate::config::Environment;
use crate::providers::address::Address;
use crate::providers::wiped;
use crate::secret::Secret;
use crate::{Error, ExitCode, Result};

/// Railway's public end point.
const END_POINT: &str = "https://backboard.railway.com/graphql/v2";
/// The variable that names another one.
const URL_VARIABLE: &str = "OPSCTL_RAILWAY_URL";
/// Says who asks, and is the query that the URL has to have.
const QUERY: &str = "source=opsctl";
/// The header of a project token.
const PROJECT_TOKEN: HeaderName = HeaderName::from_static("project-access-token");
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;
/// A request's time, from the connection to the end of the answer.
const LIMIT: Duration = Duration::from_secs(30);
/// A connection's time.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often a request is repeated.
const REPEATS: usize = 2;
/// Railway is not waited for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// An end point and a credential for it.
pub(super) struct Client {
    http: reqwest::Client,
    address: Address,
    url: Url,
    pub token: Token,
    secret: Secret,
    header: (HeaderName, HeaderValue),
    pub limit: Duration,
    requests: AtomicU64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url.as_str()).field("token", &self.token).finish_non_exhaustive()
    }
}

impl Client {
    /// # Errors
    /// Denied, without a token; usage, where the URL or the token is none.
    pub fn from_environment(environment: &Environment) -> Result<Self> {
        let (token, secret) = credential(environment)?;
        let address = end_point(environment)?;
        let mut url = Url::parse(address.shown()).map_err(|_| Error::usage(format!("{URL_VARIABLE} is not a URL")))?;
        url.set_query(Some(QUERY));
        let http = address
            .builder()
            .connect_timeout(CONNECT_LIMIT)
            .build()
            .map_err(|e| Error::new(ExitCode::Failed, "cannot ask Railway").because(e))?;
        let header = header(token, &secret)?;
        Ok(Self { http, address, url, token, secret, header, limit: LIMIT, requests: AtomicU64::new(0) })
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends an operation, and gives what its answer holds.
    pub async fn ask<F, V>(&self, task: Task, operation: &Operation<F, V>) -> Result<F, Failure>
    where
        F: DeserializeOwned,
        V: Serialize,
    {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(1))
            .with_factor(4.0)
            .with_max_times(REPEATS)
            .with_jitter();
        let asked = (|| self.ask_once(task, operation))
            .retry(delays)
            .when(|_| task.repeat != Repeat::Never)
            .adjust(|why: &Why, delay| why.wait(LONGEST_WAIT, delay))
            .notify(|why, delay| tracing::debug!(%why, ?delay, "Railway is asked again"))
            .await;
        asked.map_err(|why| Failure { task, token: self.token, why })
    }

    async fn ask_once<F, V>(&self, task: Task, operation: &Operation<F, V>) -> Result<F, Why>
    where
        F: DeserializeOwned,
        V: Serialize,
    {
        let body = wiped::json(operation).map_err(|_| Why::Strange("the request has no JSON".to_owned()))?;
        let name = operation.operation_name.as_deref().unwrap_or_default();
        tracing::debug!(operation = name, bytes = body.len(), "asking Railway");
        self.requests.fetch_add(1, Ordering::Relaxed);
        let request = self
            .http
            .post(self.url.clone())
            .timeout(self.limit)
            .header(CONTENT_TYPE, "application/json")
            .header(&self.header.0, &self.header.1)
            .body(wiped::body(body));
        let answer = request.send().await.map_err(|error| Why::of_connection(error, self.limit))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        tracing::debug!(operation = name, status = status.as_u16(), "Railway answered");
        if status.is_redirection() {
            return Err(Why::Redirected(self.address.redirect(headers.get(LOCATION))));
        }
        let read = wiped::read(answer, MAX_ANSWER).await.map_err(|unread| Why::of_answer(unread, self.limit));
        let hide = |text: &str| task.repeat == Repeat::Write || text.contains(self.secret.expose());
        if !status.is_success() {
            // What cannot be read of it changes nothing.
            let told = read.as_ref().ok().and_then(|body| parse::<IgnoredAny>(body)).map(|answer| answer.errors);
            return Err(match told {
                None if status == StatusCode::TOO_MANY_REQUESTS => Why::Blocked,
                told => Why::of_errors(status, &headers, &told.flatten().unwrap_or_default(), &hide),
            });
        }
        let body = read?;
        let answer = parse::<IgnoredAny>(&body).ok_or_else(|| Why::Strange("its answer is no JSON".to_owned()))?;
        match answer.errors {
            Some(errors) if !errors.is_empty() => Err(Why::of_errors(status, &headers, &errors, &hide)),
            _ if answer.data.is_none() => Err(Why::Strange("its answer holds neither data nor an error".to_owned())),
            _ => parse::<F>(&body)
                .and_then(|answer| answer.data)
                .ok_or_else(|| Why::Strange("its answer is not what the API promises".to_owned())),
        }
    }
}

/// An answer of the server.
#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    errors: Option<Vec<Telling>>,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Option<Answer<T>> {
    serde_json::from_slice(body).ok()
}

fn credential(environment: &Environment) -> Result<(Token, Secret)> {
    for (variable, token) in [("RAILWAY_TOKEN", Token::Project), ("RAILWAY_API_TOKEN", Token::Api)] {
        if let Some(value) = environment.text(variable)?.map(Zeroizing::new) {
            return Ok((token, Secret::new(&value).hidden()));
        }
    }
    Err(Error::new(ExitCode::Denied, "there is no token for Railway").hint(
        "set RAILWAY_TOKEN to a project token of the environment (project settings, Tokens), or RAILWAY_API_TOKEN to the token \
         of an account or a workspace",
    ))
}

fn end_point(environment: &Environment) -> Result<Address> {
    let text = environment.text(URL_VARIABLE)?;
    let address = Address::parse(text.as_deref().unwrap_or(END_POINT), URL_VARIABLE)?;
    if !address.is_encrypted() && !address.is_loopback() {
        return Err(Error::usage(format!("{URL_VARIABLE} has to start with https://: the token would go in clear")));
    }
    Ok(address)
}

/// The header with the token: its bytes are wiped with the last copy of it.
fn header(token: Token, secret: &Secret) -> Result<(HeaderName, HeaderValue)> {
    let (name, prefix, variable) = match token {
        Token::Project => (PROJECT_TOKEN, "", "RAILWAY_TOKEN"),
        Token::Api => (AUTHORIZATION, "Bearer ", "RAILWAY_API_TOKEN"),
    };
    let mut text = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.expose().len()));
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(secret.expose().as_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).map_err(|_| {
        Error::usage(format!("{variable} is none that can be sent"))
            .hint("it may end in a line break: give it without one")
    })?;
    value.set_sensitive(true);
    Ok((name, value))
}
