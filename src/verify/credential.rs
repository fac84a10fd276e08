//! Whether a service lets somebody in who shows a token: one question, for the proof of a rotation.

use std::time::Duration;

use secrecy::SecretString;

use super::http::{Ask, Caller, Http};
use crate::Result;
use crate::config::profile::{AuthRow, Identity, Method, Service};
use crate::providers::address::Address;
use crate::secret::Secret;

/// How a token is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// Who shows it is let in.
    Open,
    /// Who shows it is refused.
    Closed,
    /// Neither: there is no answer, or another one.
    Unclear(String),
}

/// The identities of a service whose token is in a variable, and that the profile has a question for.
pub fn identities<'s>(service: &'s Service, variable: &str) -> impl Iterator<Item = &'s Identity> {
    let variable = variable.to_owned();
    let known = service.identities.iter().filter(move |identity| identity.variable == variable);
    known.filter(|identity| is_known(service, identity))
}

/// Whether the profile has a question that tells this identity from a stranger.
#[must_use]
pub fn is_known(service: &Service, identity: &Identity) -> bool {
    question(service, identity).is_some()
}

/// Asks once, as `identity` with this token.
///
/// # Errors
/// Usage, when no header can carry the token; when TLS cannot be set up.
pub async fn ask(
    service: &Service,
    identity: &Identity,
    address: &Address,
    token: &Secret,
    patience: Duration,
) -> Result<Door> {
    let Some(row) = question(service, identity) else {
        return Ok(Door::Unclear("the profile has no question for it".to_owned()));
    };
    let caller = Caller::new(identity, &SecretString::from(token))?;
    let answer = match Http::new(address, patience)?.once(Ask::get(&row.path, &caller).skim()).await {
        Ok(answer) => answer,
        Err(trouble) => return Ok(Door::Unclear(trouble.to_string())),
    };
    let is_right = |who: &str| row.answers.get(who).is_some_and(|right| right.contains(&answer.status));
    Ok(match answer.status {
        _ if is_right(&identity.name) => Door::Open,
        401 | 403 => Door::Closed,
        _ if is_right("wrong") => Door::Closed,
        _ => Door::Unclear(format!("GET {} answers {}", row.path, answer.in_words())),
    })
}

/// A row that tells this identity from a wrong token.
fn question<'s>(service: &'s Service, identity: &Identity) -> Option<&'s AuthRow> {
    let is_success = |status: &u16| (200..300).contains(status);
    service.auth.iter().find(|row| {
        let answers = |who: &str, well: bool| {
            row.answers
                .get(who)
                .is_some_and(|right| !right.is_empty() && right.iter().all(|status| is_success(status) == well))
        };
        let is_plain = row.method == Method::Get && !row.optional && !row.path.contains('{');
        is_plain && answers(&identity.name, true) && answers("wrong", false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;

    #[test]
    fn the_profile_of_openwork_has_a_question_for_both_of_its_tokens() {
        let profile = Profile::load("openwork").unwrap();
        for variable in ["OPENWORK_TOKEN", "OPENWORK_HOST_TOKEN"] {
            assert_eq!(identities(&profile.services[0], variable).count(), 1, "{variable}");
        }
        assert_eq!(identities(&profile.services[0], "OPENWORK_WORKSPACE").count(), 0);
    }
}
