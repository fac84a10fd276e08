//! A mapping to begin with, out of the names that a profile or a template has.
//!
//! Invariant: names only. A template may turn out to be somebody's real file, so no value of it is repeated.

use crate::config::profile::{Need, Profile, Service, Shape, Source, Variable};
use crate::config::secrets::is_variable;
use crate::ui;

/// A line of the mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The variable.
    pub name: String,
    /// Whether its value is a secret, and so a reference.
    pub is_secret: bool,
    /// Whether it is set unless somebody takes the comment sign away.
    pub is_optional: bool,
    /// What stands to the right of `=`.
    pub mapping: String,
    /// What it is for.
    pub note: String,
}

impl Proposal {
    /// The line as it stands in the file.
    #[must_use]
    pub fn line(&self) -> String {
        let off = if self.is_optional { "# " } else { "" };
        let note = if self.note.is_empty() { String::new() } else { format!("  # {}", ui::escape(&self.note)) };
        format!("{off}{} = {}{note}", self.name, self.mapping)
    }
}

/// What a profile says of the variables of one of its services.
#[must_use]
pub fn of_service(profile: &Profile, service: &Service) -> Vec<Proposal> {
    service.variables.iter().map(|variable| of_variable(profile, variable)).collect()
}

fn of_variable(profile: &Profile, variable: &Variable) -> Proposal {
    let is_secret = variable.secret || variable.source == Source::OnePassword;
    let counts = variable.when.is_empty() && variable.only_if.is_none();
    let is_needed = matches!(variable.need, Need::Required | Need::DurableMetadata) && counts;
    let mapping = match (&variable.value, is_secret) {
        (_, true) => reference(&profile.name, &variable.name, matches!(variable.shape, Shape::Token { .. })),
        (value, false) => literal(value.as_deref().or(variable.default.as_deref()).unwrap_or_default()),
    };
    // Without a value there is nothing to set yet.
    let is_optional = !is_needed || (!is_secret && variable.value.is_none());
    Proposal { name: variable.name.clone(), is_secret, is_optional, mapping, note: variable.note.clone() }
}

/// A reference that is made of the names: the vault is for a person to fill in.
fn reference(item: &str, name: &str, is_token: bool) -> String {
    let name = name.to_lowercase().replace('_', "-");
    let prefix = format!("{}-", item.to_lowercase());
    let field = name.strip_prefix(&prefix).filter(|rest| !rest.is_empty()).unwrap_or(&name);
    let reference = format!("\"op://<vault>/{item}/{field}\"");
    match is_token {
        true => format!("{{ ref = {reference}, generate = {{ length = 48, alphabet = \"base62\" }} }}"),
        false => reference,
    }
}

fn literal(value: &str) -> String {
    format!("{{ value = {} }}", toml::Value::String(value.to_owned()))
}

/// What a template of environment variables (`NAME=…` lines) asks for. Names that the profile knows are mapped as it says.
#[must_use]
pub fn of_template(text: &str, profile: &Profile) -> Vec<Proposal> {
    let mut proposals: Vec<Proposal> = Vec::new();
    for name in text.lines().filter_map(name_of) {
        if proposals.iter().any(|one| one.name == name) {
            continue;
        }
        let mut known = profile.chosen_services().flat_map(|service| &service.variables);
        proposals.push(match known.find(|variable| variable.name == name) {
            Some(variable) => Proposal { is_optional: false, ..of_variable(profile, variable) },
            None if name.starts_with("RAILWAY_") => Proposal {
                name: name.to_owned(),
                is_secret: false,
                is_optional: true,
                mapping: literal(""),
                note: "Railway sets it itself: leave it out".to_owned(),
            },
            None if sounds_secret(name) => Proposal {
                name: name.to_owned(),
                is_secret: true,
                is_optional: false,
                mapping: reference(&profile.name, name, false),
                note: String::new(),
            },
            None => Proposal {
                name: name.to_owned(),
                is_secret: false,
                is_optional: true,
                mapping: literal(""),
                note: "no secret by its name: its value goes here".to_owned(),
            },
        });
    }
    proposals
}

/// The name on a line such as `export NAME=value`, also where it is commented out.
fn name_of(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(['#', ' ', '\t', '\u{feff}']);
    let line = line.strip_prefix("export ").unwrap_or(line);
    let name = line.split_once('=')?.0.trim_end();
    is_variable(name).then_some(name)
}

fn sounds_secret(name: &str) -> bool {
    const WORDS: [&str; 8] = ["TOKEN", "SECRET", "KEY", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS", "DSN"];
    let mut words = name.split('_').map(str::to_ascii_uppercase);
    let has_word = words.any(|word| WORDS.contains(&word.as_str()));
    has_word || name.to_ascii_uppercase().ends_with("DATABASE_URL")
}

/// A file to begin with: every service of the profile, with what its contract asks for.
#[must_use]
pub fn file(profile: &Profile) -> String {
    let mut text = format!(
        "# Where the variables of {name} come from. No value of a secret belongs into this file.\n\
         # Fill in what stands in <…>, then: opsctl secrets plan\n\
         \n\
         profile = {quoted}\n\
         \n\
         [secrets]\n\
         provider = \"op\"  # op: the op command; connect: a Connect server; env: no 1Password\n\
         # A key for fingerprints that are the same in every run; needed for sealed variables and --prune.\n\
         # fingerprint_key = \"op://<vault>/opsctl/fingerprint-key\"\n\
         \n\
         [[secrets.targets]]\n\
         name = \"production\"\n\
         project = \"<railway project id>\"\n\
         environment = \"<railway environment id>\"\n\
         vault = \"<vault>\"  # references to another vault are refused\n\
         production = true  # asks for the target's name before anything is written\n",
        name = profile.name,
        quoted = toml::Value::String(profile.name.clone()),
    );
    for service in profile.chosen_services() {
        text += &format!(
            "\n[[secrets.targets.services]]\nname = {}\nservice = \"<railway service id>\"  # left out: the shared variables\n\
             [secrets.targets.services.variables]\n",
            toml::Value::String(service.name.clone())
        );
        for proposal in of_service(profile, service) {
            text += &format!("{}\n", proposal.line());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_gives_names_and_never_a_value() {
        let template = "\u{feff}# comment\nOPENWORK_TOKEN=hunter2\nexport OPENAI_API_KEY = 'hunter2'\n#PORT=8080\nDATABASE_URL=x\n\
                        RAILWAY_TOKEN=hunter2\nPORT=1\nnot a line\n1X=2\nMONKEY=a\n";
        let profile = Profile::load("openwork").unwrap();
        let proposals = of_template(template, &profile);
        let lines: Vec<String> = proposals.iter().map(Proposal::line).collect();
        let expected = [
            "OPENWORK_TOKEN = { ref = \"op://<vault>/openwork/token\", generate = { length = 48, alphabet = \"base62\" } }",
            "OPENAI_API_KEY = \"op://<vault>/openwork/openai-api-key\"",
            "# PORT = { value = \"\" }",
            "DATABASE_URL = \"op://<vault>/openwork/database-url\"",
            "# RAILWAY_TOKEN = { value = \"\" }",
            "# MONKEY = { value = \"\" }",
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
    }
}
