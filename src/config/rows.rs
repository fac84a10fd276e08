//! What `opsctl config show` prints: every setting with its value and its origin.

use serde::Serialize;

use super::profile::Volume;
use super::{KeySource, Origin, SecretsTable, Settings, Sourced};
use crate::ui;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Row {
    /// The name, as flags have it.
    pub name: &'static str,
    /// The value as text; `None` when there is none. Secret values are never in it.
    pub value: Option<String>,
    /// `flag`, `variable NAME`, `file PATH`, `profile NAME` or `default`.
    pub origin: String,
}

/// All settings in a fixed order.
#[must_use]
pub fn rows(settings: &Settings) -> Vec<Row> {
    let snapshot = &settings.snapshot;
    let profile = &settings.profile.value;
    let from_profile = Origin::Profile(profile.name.clone());
    let volume = profile.volume().ok();
    let of_volume = |name, show: fn(&Volume) -> String| of_profile(name, volume.map(show), &from_profile);
    vec![
        row("config", &settings.config, |path| path.as_ref().map(|path| path.display().to_string())),
        row("profile", &settings.profile, |profile| Some(format!("{} {}", profile.name, profile.contract_version))),
        of_volume("data-root", |volume| volume.data_root.display().to_string()),
        of_volume("recoverable", |volume| volume.recoverable.join(", ")),
        of_volume("not-ours", |volume| volume.not_ours.join(", ")),
        row("store", &settings.store, Clone::clone),
        row("store-id", &settings.store_id, Clone::clone),
        row("source", &settings.source, |name| Some(name.clone())),
        row("state-dir", &settings.state_dir, |path| path.as_ref().map(|path| path.display().to_string())),
        row("tz", &settings.tz, |zone| Some(crate::time::zone_name(zone))),
        row("json", &settings.json, |on| Some(on.to_string())),
        row("log-format", &settings.log_format, word),
        row("run-id", &settings.run_id, |id| Some(id.clone())),
        row("verbosity", &settings.verbosity, |level| Some(level.to_string())),
        row("progress", &settings.progress, |on| Some(on.to_string())),
        row("color", &settings.color, word),
        row("recipients", &settings.recipients, list),
        row("trusted-signers", &settings.trusted_signers, list),
        row("trust-store-keys", &settings.trust_store_keys, |on| Some(on.to_string())),
        row("identity", &settings.identity, key),
        row("signing-key", &settings.signing_key, key),
        row("exclude", &snapshot.exclude, list),
        row("exclude-recoverable", &snapshot.exclude_recoverable, |on| Some(on.to_string())),
        row("upload-concurrency", &snapshot.upload_concurrency, |number| Some(number.to_string())),
        row("memory", &snapshot.memory, |size| Some(ui::bytes(*size))),
        row("max-rekey-size", &snapshot.max_rekey_size, |size| size.map(ui::bytes)),
        row("secrets.provider", &settings.secrets, |secrets| Some(secrets.as_ref()?.provider.name().to_owned())),
        row("secrets.fingerprint-key", &settings.secrets, |secrets| secrets.as_ref()?.shown_key()),
        row("secrets.targets", &settings.secrets, |secrets| secrets.as_ref().map(targets)),
    ]
}

/// The rows as a table for people.
#[must_use]
pub fn rows_table(rows: &[Row], width: Option<u16>) -> String {
    let mut table = ui::Table::new(["SETTING", "VALUE", "FROM"]);
    for row in rows {
        table.row([row.name.to_owned(), row.value.clone().unwrap_or_else(|| "-".into()), row.origin.clone()]);
    }
    table.render(width)
}

fn row<T>(name: &'static str, setting: &Sourced<T>, show: impl FnOnce(&T) -> Option<String>) -> Row {
    // Blanked once more: whatever a person put into the wrong setting, its listing shows no key.
    let value = show(&setting.value).map(|text| ui::redact(&text));
    Row { name, value, origin: setting.origin.to_string() }
}

fn of_profile(name: &'static str, value: Option<String>, origin: &Origin) -> Row {
    Row { name, value, origin: origin.to_string() }
}

fn word<T: clap::ValueEnum>(value: &T) -> Option<String> {
    value.to_possible_value().map(|word| word.get_name().to_owned())
}

#[allow(clippy::ptr_arg, reason = "the signature that `row` expects for a list")]
fn list(values: &Vec<String>) -> Option<String> {
    (!values.is_empty()).then(|| values.join(", "))
}

fn targets(secrets: &SecretsTable) -> String {
    secrets.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn key(source: &Option<KeySource>) -> Option<String> {
    source.as_ref().map(|source| match source {
        KeySource::Variable(_) => "(set, hidden)".to_owned(),
        KeySource::File(path) => path.display().to_string(),
        KeySource::Stdin => "(standard input)".to_owned(),
        KeySource::Reference(reference) => reference.to_string(),
    })
}
