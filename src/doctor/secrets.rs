//! Can secrets be brought from 1Password to Railway from here?
//!
//! Only where somebody gave a token for it: on a backup host there should be none.

use super::{Request, failed, timed};
use crate::Result;
use crate::config::secrets::{Provider, Secrets, Source, Target};
use crate::finding::Finding;
use crate::providers::railway::Railway;
use crate::secrets::resolve::provider_of;
use crate::{ExitCode, hardening, ui};

const CONFIGURATION: &str = "secrets.configuration";

pub(super) fn check(request: &Request<'_>) -> Vec<Finding> {
    let secrets = match &request.secrets {
        Ok(None) => return Vec::new(),
        Ok(Some(secrets)) => secrets,
        Err(error) => return vec![failed(CONFIGURATION, error, "correct the configuration file")],
    };
    // Before the first token is read.
    hardening::protect();
    let targets = ui::count(secrets.targets.len() as u64, "target", "targets");
    let mut findings = vec![Finding::ok(CONFIGURATION, format!("{targets} for secrets"))];
    findings.extend(railway(request, secrets));
    findings.push(timed(|| one_password(request, secrets)));
    findings
}

/// Which targets the token is for. A project token is for one environment, so one target is enough.
fn railway(request: &Request<'_>, secrets: &Secrets) -> Vec<Finding> {
    let name = |target: &Target| format!("secrets.railway.{}", target.name);
    let has = |name: &str| request.environment.get(name).is_some();
    if !has("RAILWAY_TOKEN") && !has("RAILWAY_API_TOKEN") {
        let why = "neither RAILWAY_TOKEN nor RAILWAY_API_TOKEN is set here, where only `opsctl secrets` needs one";
        return secrets.targets.iter().map(|target| Finding::skipped(&name(target), why)).collect();
    }
    let scope = |target: &Target| -> Result<()> {
        let railway = Railway::from_environment(request.environment)?;
        let scope = railway.check_scope(&target.project, &target.environment);
        request.runtime.block_on(request.cancel.guard(scope))
    };
    let checked: Vec<(&Target, Result<()>)> = secrets.targets.iter().map(|target| (target, scope(target))).collect();
    let is_for_another = checked.iter().any(|(_, scope)| scope.is_ok());
    let finding = |(target, scope): &(&Target, Result<()>)| match scope {
        Ok(()) => Finding::ok(&name(target), "the token is for its project and environment"),
        Err(error) if is_for_another && error.code() == ExitCode::Denied => {
            Finding::skipped(&name(target), "the token is for another target")
        }
        Err(error) => failed(&name(target), error, "make a project token for the environment of the target"),
    };
    checked.iter().map(finding).collect()
}

/// Whether 1Password lets us in, and shows us the vaults that the configuration names.
fn one_password(request: &Request<'_>, secrets: &Secrets) -> Finding {
    const NAME: &str = "secrets.onepassword";
    let token = match secrets.provider {
        Provider::Op => "OP_SERVICE_ACCOUNT_TOKEN",
        Provider::Connect => "OP_CONNECT_TOKEN",
        Provider::Env => return Finding::skipped(NAME, "the configuration uses no 1Password"),
    };
    if request.environment.get(token).is_none() {
        return Finding::skipped(NAME, format!("{token} is not set here, where only `opsctl secrets` needs it"));
    }
    let work = async {
        let vaults = provider_of(secrets.provider, request.environment, request.cancel).await?;
        let mut seen = Vec::new();
        for name in names(secrets) {
            let items = vaults.list(name).await?;
            seen.push(format!("{name} ({})", ui::count(items.len() as u64, "item", "items")));
        }
        Ok::<_, crate::Error>(seen)
    };
    match request.runtime.block_on(request.cancel.guard(work)) {
        Ok(seen) => Finding::ok(NAME, format!("vaults that can be seen: {}", seen.join(", "))),
        Err(error) => failed(NAME, &error, "look at what the service account was granted"),
    }
}

/// The vaults that anything refers to, each once.
fn names(secrets: &Secrets) -> Vec<&str> {
    let services = secrets.targets.iter().flat_map(|target| &target.services);
    let mappings = services.flat_map(|service| service.variables.values()).map(|mapping| &mapping.source);
    let mut names: Vec<&str> = mappings
        .chain(&secrets.fingerprint_key)
        .filter_map(|source| match source {
            Source::OnePassword(reference) => Some(reference.vault.as_str()),
            _ => None,
        })
        .collect();
    names.sort_by_key(|name| name.to_lowercase());
    names.dedup_by(|one, other| one.eq_ignore_ascii_case(other));
    names
}
