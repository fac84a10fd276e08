//! The question after a restore in place: does the service work on the new tree?

use std::time::Duration;

use super::Session;
use super::reading::Reading;
use super::restore::RestoreArgs;
use super::verify::recorded;
use crate::archive::facts::Recorded;
use crate::config::profile::Service;
use crate::finding::Status;
use crate::repository::Snapshot;
use crate::verify::{self, Address, Against, Request, TokenFiles, Tokens, Verification};
use crate::{Error, Result, ui};

/// What there is to ask, and with which tokens: settled before anything is changed.
pub(super) struct Question<'a> {
    address: Address,
    service: &'a Service,
    tokens: Tokens,
    against: Option<Against>,
    is_part: bool,
    timeout: Duration,
    strict: bool,
}

impl<'a> Question<'a> {
    /// `None` if nobody asked for it.
    ///
    /// # Errors
    /// Usage, when the URL is none, a token cannot be one, or the profile has nothing to ask.
    pub(super) fn new(args: &RestoreArgs, session: &Session<'a>) -> Result<Option<Self>> {
        let Some(url) = &args.verify_url else { return Ok(None) };
        let profile = &session.settings.profile.value;
        let service = match profile.volume_service() {
            Ok((service, _)) if !service.probes.is_empty() => service,
            _ => verify::service(profile)?,
        };
        let address = Address::parse(url, "--verify-url")?;
        if args.verify_strict && !address.is_encrypted() && !address.is_loopback() {
            let what = format!("--verify-strict sends nothing over plain HTTP to another machine ({})", address.host());
            return Err(Error::usage(what).hint("use https, or run this on the machine of the service"));
        }
        Ok(Some(Self {
            address,
            service,
            tokens: session.tokens(service, &TokenFiles::new(None, None, &args.token_file)?, true)?,
            against: None,
            is_part: false,
            timeout: Duration::from_secs(args.verify_timeout),
            strict: args.verify_strict,
        }))
    }

    /// Remembers what the snapshot recorded, be it nothing. A part of it is no measure for the whole service.
    pub(super) fn compare(&mut self, session: &Session<'_>, reading: &Reading, snapshot: &Snapshot, is_whole: bool) {
        self.is_part = !is_whole;
        if self.is_part || self.service.facts.is_none() {
            return;
        }
        let mut against = recorded(session, reading, snapshot).unwrap_or_else(|error| {
            ui::warn(format!("the service will not be compared with the snapshot: {}", error.full_message()));
            Against { snapshot: snapshot.id.to_string(), facts: None }
        });
        if let Some(Recorded::Recorded(workspaces)) = against.facts.as_mut().map(|facts| &mut facts.workspaces) {
            // A start may hide those. That is said, and no other tree would change anything about it.
            workspaces.iter_mut().for_each(|workspace| workspace.served &= !workspace.may_be_hidden);
        }
        self.against = Some(against);
    }

    /// Why the service is not compared with the snapshot, although nothing is in the way.
    pub(super) fn compares_nothing(&self) -> Option<String> {
        self.is_part.then(|| "only a part is restored: the service is not compared with the snapshot".to_owned())
    }

    /// Asks, as soon as the service is up.
    pub(super) fn ask(&self, session: &Session<'_>) -> Result<Verification> {
        let request = Request {
            address: &self.address,
            service: self.service,
            tokens: &self.tokens,
            workspace: verify::workspace_path(self.service, &session.environment, self.against.as_ref())?,
            against: self.against.clone(),
            restart: None,
            write_probe: false,
            create_probe_tokens: false,
            strict: self.strict,
            timeout: self.timeout,
            limit: verify::limit(self.timeout),
            cancel: &session.cancel,
        };
        let found = session.handle.block_on(verify::gate(&request))?;
        for check in &found.checks {
            match check.status {
                Status::Skipped => ui::say(format!("{} was not checked: {}", check.name, check.detail)),
                // The data is not the reason, so the restore stays.
                Status::Failed if found.ok => ui::warn(format!("{}: {}", check.name, check.detail)),
                _ => {}
            }
        }
        Ok(found)
    }
}
