//! What all reading commands share: the identity, whom to believe, the repository, the snapshot.

use clap::Args;

use super::Session;
use crate::archive::keyring::Identities;
use crate::archive::signature::Signer;
use crate::config::args::{IdentityArgs, TrustArgs};
use crate::repository::{Listing, Purpose, Repository, Snapshot, TrustOptions, Which, choose};
use crate::ui;
use crate::{Error, ExitCode, Result};

/// The flags of a command that reads content.
#[derive(Args, Debug)]
pub(super) struct ReadArgs {
    #[command(flatten)]
    pub(super) identity: IdentityArgs,
    #[command(flatten)]
    pub(super) trust: TrustArgs,
}

/// An opened store and the keys to read it.
pub(super) struct Reading {
    pub(super) repository: Repository,
    /// What it was opened with.
    pub(super) options: TrustOptions,
    identities: Option<Identities>,
}

impl Reading {
    /// Opens the store for `purpose`. What is odd about it is said on stderr.
    pub(super) fn open(session: &Session<'_>, trust: &TrustArgs, purpose: Purpose) -> Result<Self> {
        Self::open_as(session, trust, purpose, &[])
    }

    /// As [`Reading::open`], believing `own` signers too.
    pub(super) fn open_as(session: &Session<'_>, trust: &TrustArgs, purpose: Purpose, own: &[Signer]) -> Result<Self> {
        let identity = session.identity()?;
        let identities = identity.map(|text| Identities::parse(&text)).transpose()?;
        let pinned = session.settings.trusted_signers.value.iter().chain(identities.iter().flat_map(|ids| ids.pins()));
        let options = TrustOptions {
            pins: pinned.map(|text| Ok(text.parse()?)).chain(own.iter().cloned().map(Ok)).collect::<Result<_>>()?,
            trust_store_keys: session.settings.trust_store_keys.value,
            ignore_store_time: trust.ignore_store_time,
            purpose,
        };
        let repository = session.block(Repository::open(session.store()?, &options))?;
        for warning in repository.warnings() {
            ui::warn(warning);
        }
        Ok(Self { repository, options, identities })
    }

    /// The identities, if any were given.
    pub(super) const fn identities(&self) -> Option<&Identities> {
        self.identities.as_ref()
    }

    /// The identities, without which content cannot be read.
    pub(super) fn need_identities(&self) -> Result<&Identities> {
        self.identities.as_ref().ok_or_else(|| {
            Error::new(ExitCode::Denied, "reading the content of a snapshot needs the identity")
                .hint("give --identity FILE (`-` is standard input), or set OPSCTL_IDENTITY or OPSCTL_IDENTITY_FILE")
        })
    }

    /// All snapshots, or those of the named source; forks and gaps are said on stderr.
    pub(super) fn listing(&self, session: &Session<'_>) -> Result<Listing> {
        let listing = session.block(self.repository.listing(session.settings.named_source()))?;
        for warning in &listing.warnings {
            ui::warn(warning);
        }
        Ok(listing)
    }

    /// The snapshot that `which` means. What had to be passed over is said on stderr.
    pub(super) fn choose<'l>(
        &self,
        session: &Session<'_>,
        listing: &'l Listing,
        which: &Which,
    ) -> Result<&'l Snapshot> {
        let snapshot = choose::choose(listing, session.settings.named_source(), which)?;
        if !matches!(which, Which::Id(id) if id != "latest") {
            choose::skipped(listing, snapshot, which).iter().for_each(ui::warn);
        }
        Ok(snapshot)
    }
}
