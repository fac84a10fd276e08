//! Which status openwork-server answers whom with: the table in `table.txt`, which is a part of the project as the recordings are not.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test helper fails by panicking")]

use std::collections::BTreeMap;

use super::{VERSIONS, Version};

/// Who asks, in the order of the columns.
pub const WHO: [&str; 9] =
    ["none", "wrong", "client", "host", "host-as-bearer", "client+host", "owner", "collaborator", "viewer"];

/// What one version answers at one end point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub version: Version,
    pub method: &'static str,
    /// With `{id}`, `{session}` and `{new}`.
    pub path: &'static str,
    /// As [`WHO`].
    pub status: [u16; 9],
}

impl Known {
    /// The status for this identity.
    pub fn status_of(&self, who: &str) -> u16 {
        self.status[WHO.iter().position(|known| *known == who).unwrap_or_else(|| panic!("nobody is called {who}"))]
    }

    /// Nobody gets anything here without showing who asks.
    pub fn is_protected(&self) -> bool {
        self.status_of("none") == 401
    }

    /// The path of a request.
    pub fn request(&self, id: &str, session: &str) -> String {
        self.path.replace("{id}", id).replace("{session}", session).replace("{new}", session)
    }
}

/// Every end point, in every version.
pub fn table() -> Vec<Known> {
    let lines = include_str!("table.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut kinds: BTreeMap<&str, [u16; 9]> = BTreeMap::new();
    let mut known = Vec::new();
    for line in lines {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["kind", name, status @ ..] => {
                let status: Vec<u16> = status.iter().map(|status| status.parse().expect("a status")).collect();
                kinds.insert(name, status.try_into().expect("one for each who asks"));
            }
            [method, path, of @ ..] => {
                assert_eq!(of.len(), VERSIONS.len(), "{line}");
                for (version, kind) in VERSIONS.into_iter().zip(of) {
                    known.push(Known { version, method, path, status: kinds[kind] });
                }
            }
            _ => panic!("{line}"),
        }
    }
    known
}
