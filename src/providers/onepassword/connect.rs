//! A Connect server: 1Password's REST interface, which a team runs in its own network.
//!
//! Invariants:
//! * The token goes to the host that was named and to no other; without encryption only to this machine or within a private
//!   network.
//! * What only reads is asked again when the server fails; what writes is sent once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::document::parse;
use super::failure::{Failure, quoted};
use super::{Listed, Vault, is_id};
use crate::Result;
use crate::config::Environment;
use crate::providers::address::Address;
use crate::providers::wiped::{self, Unread, Wiped};
use crate::secret::Secret;

const HOST: &str = "OP_CONNECT_HOST";
const TOKEN: &str = "OP_CONNECT_TOKEN";
/// What is read of an answer.
const LARGEST: usize = 16 << 20;
/// What is read of an answer that says what went wrong.
const MESSAGE: usize = 64 << 10;
/// Tries of a request that only reads.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

const LOOK: &str = "look at the log of the Connect server, and whether OP_CONNECT_HOST is where it listens";

pub(super) struct Connect {
    address: Address,
    client: Client,
    bearer: HeaderValue,
    /// Hidden from all output as long as this is here.
    _token: Secret,
    limit: Duration,
    requests: AtomicU64,
}

impl Connect {
    pub(super) fn new(environment: &Environment, limit: Duration) -> Result<Self> {
        let wanted = |name: &str, hint| {
            let missing = || Failure::unfit(format!("{name} is not set"), hint);
            Ok::<_, crate::Error>(Zeroizing::new(environment.text(name)?.ok_or_else(missing)?))
        };
        let address = Address::parse(&wanted(HOST, "set it to the URL of the Connect server")?, HOST)?;
        if !address.is_encrypted() && !address.is_loopback() && !is_private(address.host()) {
            let message = format!("{HOST} would send its token over an open network without encryption");
            return Err(
                Failure::unfit(message, "name it with https://, or by a host name of the private network").into()
            );
        }
        let token = Secret::new(&wanted(TOKEN, "set it to an access token of the Connect server")?).hidden();
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let refused =
            |_| Failure::unfit(format!("{TOKEN} is no token: it holds other characters"), "copy it once more, whole");
        let mut bearer = HeaderValue::from_str(&bearer).map_err(refused)?;
        bearer.set_sensitive(true);
        Ok(Self { client: address.client()?, address, bearer, _token: token, limit, requests: AtomicU64::new(0) })
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) async fn list(&self, vault: &str) -> Result<Vec<Listed>, Failure> {
        let vault =
            if is_id(vault) { Vault { id: vault.to_owned(), name: String::new() } } else { self.vault(vault).await? };
        let json = self.read(&format!("/vaults/{}/items", vault.id)).await?;
        let items: Vec<Listed> = parse("a list of items", &json)?;
        Ok(items.into_iter().map(|item| Listed { vault: vault.clone(), ..item }).collect())
    }

    /// The vault of a name. All are asked for: whether the server's own filter heeds upper and lower case is nowhere said.
    async fn vault(&self, name: &str) -> Result<Vault, Failure> {
        let json = self.read("/vaults").await?;
        let vaults: Vec<Vault> = parse("a list of vaults", &json)?;
        let found: Vec<&Vault> =
            vaults.iter().filter(|vault| vault.name.to_lowercase() == name.to_lowercase()).collect();
        match found[..] {
            [vault] if is_id(&vault.id) => Ok(vault.clone()),
            [_] => Err(Failure::broken("the id of a vault is none", LOOK)),
            [] => Err(Failure::Missing(format!("there is no vault `{}`", quoted(name)))),
            _ => {
                let ids: Vec<String> = found.iter().map(|vault| quoted(&vault.id)).collect();
                let message = format!("several vaults are called `{}`, with the ids {}", quoted(name), ids.join(", "));
                Err(Failure::Ambiguous(message))
            }
        }
    }

    pub(super) async fn get(&self, vault: &str, item: &str) -> Result<Wiped, Failure> {
        self.read(&format!("/vaults/{vault}/items/{item}")).await
    }

    pub(super) async fn put(&self, vault: &str, item: &str, json: Wiped) -> Result<(), Failure> {
        self.ask(Method::PUT, &format!("/vaults/{vault}/items/{item}"), Some(json)).await.map(drop)
    }

    async fn read(&self, path: &str) -> Result<Wiped, Failure> {
        let mut tries = 1;
        loop {
            match self.ask(Method::GET, path, None).await {
                Err(failure) if failure.is_open() && tries < TRIES => tokio::time::sleep(PAUSE * tries).await,
                done => return done,
            }
            tries += 1;
        }
    }

    async fn ask(&self, method: Method, path: &str, json: Option<Wiped>) -> Result<Wiped, Failure> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let url = format!("{}/v1{path}", self.address.shown());
        let mut request =
            self.client.request(method, url).timeout(self.limit).header(AUTHORIZATION, self.bearer.clone());
        if let Some(json) = json {
            request = request.header(CONTENT_TYPE, "application/json").body(wiped::body(json));
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        wiped::read(answer, LARGEST).await.map_err(|unread| match unread {
            Unread::Large(_) => Failure::unfit(unread.to_string(), "take this item out of the mapping"),
            Unread::Cut(error) if error.is_timeout() => Failure::Slow(self.limit),
            Unread::Cut(_) => Failure::broken(unread.to_string(), LOOK),
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return Failure::Slow(self.limit);
        }
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause.and_then(std::error::Error::source) {
            cause = Some(inner);
        }
        let why = cause.map_or_else(|| "the connection failed".to_owned(), ToString::to_string);
        Failure::broken(format!("the Connect server cannot be reached: {}", quoted(&why)), LOOK)
    }

    async fn refusal(&self, answer: Response) -> Failure {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        let status = answer.status();
        if status.is_redirection() {
            let target = self.address.redirect(answer.headers().get(LOCATION));
            return Failure::unfit(format!("the Connect server redirects {target}, where no token is sent"), LOOK);
        }
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()).map(quoted);
        let body = wiped::read(answer, MESSAGE).await.unwrap_or_default();
        let said = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => format!("the Connect server says: {} ({})", quoted(&refusal.message), status.as_u16()),
            Err(_) => format!("the Connect server answers {status}"),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(said),
            StatusCode::NOT_FOUND => Failure::Missing(said),
            StatusCode::CONFLICT => Failure::Conflict(said),
            StatusCode::TOO_MANY_REQUESTS => {
                let after = after.map_or_else(String::new, |after| format!("; it may be asked again in {after} s"));
                Failure::Limited(format!("{said}{after}"))
            }
            _ if status.is_client_error() => Failure::unfit(said, "see that the item can be edited in 1Password"),
            _ => Failure::broken(said, LOOK),
        }
    }
}

/// Whether a host can only be one of a private network: such a server usually stands beside what asks it, where nobody has
/// certificates, and where Railway encrypts what goes from one service to another.
fn is_private(host: &str) -> bool {
    let is_bare = !host.contains('.') && !host.starts_with('[');
    is_bare || host.ends_with(".railway.internal")
}
