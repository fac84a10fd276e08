//! The API of the OpenWork server: what its errors mean.

/// What an error of the server means, by its code: what happened, and what to do.
#[must_use]
pub fn explain(code: &str) -> Option<(&'static str, &'static str)> {
    Some(match code {
        "workspace_unauthorized" => (
            "the server knows the workspace and does not serve it: server.json was written for another path",
            "restore to the path of the capture, or correct workspaces and authorizedRoots in server.json",
        ),
        "workspace_not_found" => (
            "the server has no such workspace",
            "restore to the path of the capture: the id follows from it; or look whether server.json is broken",
        ),
        "read_only" => ("the server is read-only (OPENWORK_READONLY)", "unset OPENWORK_READONLY to make tokens"),
        "opencode_unconfigured" => (
            "the server does not know where OpenCode is",
            "set OPENWORK_OPENCODE_BASE_URL, or let the server start OpenCode",
        ),
        _ => return None,
    })
}

/// Whether a server says this, too, before its engine is up.
#[must_use]
pub fn may_pass(code: &str) -> bool {
    code == "opencode_unconfigured"
}
