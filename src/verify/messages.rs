//! How many messages sessions have: a database that lost its newest rows lists every session as it should.

use std::collections::BTreeMap;

use futures::StreamExt as _;

use super::{Run, sessions};

/// Sessions whose messages are counted: those at the front of the list, which lie newest first.
pub(super) const MOST: usize = 200;

/// The messages that were counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// By session.
    pub(super) messages: BTreeMap<String, u64>,
    /// Why not those of every session, if that is so.
    pub(super) why: Option<String>,
}

/// Counts the messages of these sessions; `None` if the profile does not say how to ask.
pub(super) async fn count<'i>(
    run: &Run<'_>,
    workspace: Option<&str>,
    ids: impl IntoIterator<Item = &'i String>,
) -> Option<Counted> {
    run.request.service.sessions.as_ref()?.messages.as_ref()?;
    let ids: Vec<&String> = ids.into_iter().take(MOST).collect();
    let work = ids.iter().map(|id| sessions::messages(run, workspace, id));
    let mut counts = futures::stream::iter(work).buffered(sessions::AT_ONCE);
    let (mut counted, mut uncounted) = (Counted::default(), 0);
    for id in &ids {
        // An engine that does not answer the first ones is not asked for all.
        if uncounted >= sessions::AT_ONCE {
            break;
        }
        match counts.next().await {
            Some(Ok(Some(messages))) => drop(counted.messages.insert((*id).clone(), messages)),
            // A list that is slow or too large has lost nothing.
            Some(Err(lack)) => {
                uncounted += 1;
                counted.why.get_or_insert_with(|| lack.why());
            }
            Some(Ok(None)) | None => {}
        }
    }
    Some(counted)
}

impl Counted {
    /// The sessions that have fewer messages now than `before` says, each in words.
    pub(super) fn short_of(&self, before: &BTreeMap<String, u64>, then: &str) -> Vec<String> {
        let short = self.messages.iter().filter_map(|(id, now)| {
            let before = before.get(id).filter(|before| now < before)?;
            Some(format!("{id} has {} where {before} were {then}", crate::ui::count(*now, "message", "messages")))
        });
        short.collect()
    }
}
