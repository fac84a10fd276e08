//! Where a running service is, and the one way in which it is asked.
//!
//! Invariants:
//! * No redirect is followed, and what is not encrypted goes through no proxy: a token goes to the host that was named and to
//!   no other.
//! * No message repeats a URL that could hold a password.

use reqwest::header::HeaderValue;
use url::Url;

use crate::config::profile::is_loopback;
use crate::{Error, ExitCode, Result};

/// Where the service is: `http` or `https`, a host, and a path below which it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Reads a URL. `flag` names it in messages, which do not repeat it: it may hold a password.
    ///
    /// # Errors
    /// Usage, when it is none, or holds what does not belong there.
    pub fn parse(text: &str, flag: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::usage(format!("{flag} {why}")));
        let Ok(url) = Url::parse(text) else {
            return refuse("is not a URL that starts with http:// or https://");
        };
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return refuse("is not a URL that starts with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("holds a user name or password, which everybody sees in the list of processes");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("ends in a query or fragment: only scheme, host and path are wanted");
        }
        Ok(Self(url))
    }

    /// As it is shown.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The name of the host.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Whether what is sent there is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether it is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }

    /// Where a redirect leads, as far as it may be shown: another host, or another scheme.
    #[must_use]
    pub fn redirect(&self, location: Option<&HeaderValue>) -> String {
        let target = location.and_then(|value| self.0.join(value.to_str().ok()?).ok());
        match target {
            None => "nowhere".to_owned(),
            Some(target) if target.host() != self.0.host() => {
                format!("to another host ({})", target.host_str().unwrap_or("?"))
            }
            Some(target) if target.scheme() != self.0.scheme() => format!("to {}", target.scheme()),
            Some(target) if target.port_or_known_default() != self.0.port_or_known_default() => {
                "to another port".to_owned()
            }
            Some(_) => "to another path of the same host".to_owned(),
        }
    }

    /// A client for it.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client(&self) -> Result<reqwest::Client> {
        self.builder().build().map_err(|e| Error::new(ExitCode::Failed, "cannot ask the service").because(e))
    }

    /// A client for it, as far as who may read what is sent.
    pub fn builder(&self) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder();
        // A proxy would read the token, and has no business between two processes of one machine.
        let is_direct = self.is_loopback() || !self.is_encrypted();
        let builder = if is_direct { builder.no_proxy() } else { builder };
        builder.redirect(reqwest::redirect::Policy::none()).user_agent(concat!("opsctl/", env!("CARGO_PKG_VERSION")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_the_whole_host() {
        for (url, is_loopback) in [
            ("http://127.0.0.1:8787", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:1", true),
            ("http://localhost/x", true),
            ("http://localhost.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://10.0.0.1", false),
            ("https://0.0.0.0", false),
        ] {
            assert_eq!(Address::parse(url, "--url").unwrap().is_loopback(), is_loopback, "{url}");
        }
    }

    #[test]
    fn a_url_with_a_secret_or_without_a_host_is_refused_and_not_repeated() {
        for url in [
            "ftp://h",
            "h:8787",
            "http://me:hunter2@h",
            "http://hunter2@h",
            "https://h/?token=hunter2",
            "http://h/#hunter2",
        ] {
            let error = Address::parse(url, "--url").unwrap_err();
            assert_eq!(error.code(), ExitCode::Usage, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(Address::parse("https://h/base/", "--url").unwrap().shown(), "https://h/base");
    }

    #[test]
    fn a_redirect_is_told_by_its_host_alone() {
        let address = Address::parse("http://h:80/base", "--url").unwrap();
        let to = |text: &'static str| address.redirect(Some(&HeaderValue::from_static(text)));
        assert_eq!(to("https://evil.example/x?secret=hunter2"), "to another host (evil.example)");
        assert_eq!(to("//evil.example/"), "to another host (evil.example)");
        assert_eq!(to("https://h/"), "to https");
        assert_eq!(to("http://h:81/"), "to another port");
        assert_eq!(to("/login?next=hunter2"), "to another path of the same host");
        assert_eq!(address.redirect(None), "nowhere");
    }
}
