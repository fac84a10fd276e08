//! A stand-in of openwork-server on fresh data, its sessions in memory, for tests of `opsctl verify`.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::BTreeMap;
use std::fs;

use opsctl::archive::facts::{Facts, Recorded, SessionFacts, WorkspaceFacts};
use serde_json::Value;

use crate::openwork::{Engine, OpenWork, Version};
use crate::support::TestDir;
use crate::verifier::{Verified, compared, verified};

pub const ENGINE: &str = "1.17.11";

/// A service on fresh data, with so many sessions.
pub struct Site {
    pub dir: TestDir,
    pub work: OpenWork,
    pub engine: Engine,
    pub ids: Vec<String>,
}

impl Site {
    pub fn new(version: Version, sessions: usize) -> Self {
        let dir = TestDir::new();
        let data = dir.mkdir("data");
        let ids: Vec<String> = (0..sessions).map(|n| format!("ses_{n:05}")).collect();
        let engine = Engine::memory(ENGINE, &data.join("workspace"), &ids);
        let work = OpenWork::boot(version, &data, engine.clone());
        Self { dir, work, engine, ids }
    }

    pub fn verify(&self, args: &[&str]) -> Verified {
        verified(&self.work.url(), &self.work.env(), args)
    }

    /// The same as if the workspace were to be at this path.
    pub fn verify_at(&self, workspace: &str) -> Verified {
        let mut env = self.work.env();
        env.retain(|(name, _)| *name != "OPENWORK_WORKSPACE");
        env.push(("OPENWORK_WORKSPACE", workspace.to_owned()));
        verified(&self.work.url(), &env, &[])
    }

    pub fn compare(&self, facts: Facts) -> Verified {
        compared(&self.work.url(), &self.work.env(), facts)
    }

    pub fn workspace(&self) -> String {
        self.work.workspace().display().to_string()
    }

    /// What a snapshot of it would record.
    pub fn facts(&self) -> Facts {
        let workspace =
            WorkspaceFacts { id: self.work.workspace_id(), path: self.workspace(), ..WorkspaceFacts::default() };
        Facts {
            service: "openwork".to_owned(),
            sessions: sessions(&self.ids),
            tokens: Recorded::Recorded(self.token_ids()),
            workspaces: Recorded::Recorded(vec![workspace]),
            versions: BTreeMap::new(),
        }
    }

    /// The tokens that are there: the file that the server keeps.
    pub fn token_ids(&self) -> Vec<String> {
        let text = fs::read(self.work.tokens_file()).unwrap_or_default();
        let file: Value = serde_json::from_slice(&text).unwrap_or_default();
        file["tokens"].as_array().into_iter().flatten().map(|token| token["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Captured sessions without messages.
pub fn sessions(ids: &[String]) -> Recorded<SessionFacts> {
    let messages = ids.iter().map(|id| (id.clone(), 0)).collect();
    Recorded::Recorded(SessionFacts { path: "xdg/share/opencode/opencode.db".to_owned(), messages })
}
