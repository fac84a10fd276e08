//! OpenCode, the engine behind OpenWork: what its database says about sessions.
//!
//! From version 1.2 on it keeps sessions in SQLite; before, as JSON files, of which nothing is known here. The schema
//! grows with every version: only the tables and columns that all of them have are asked for.
//!
//! Invariant: ids and numbers only. Nothing that a user wrote is read: titles are compared in the database.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::PROBE_LABEL;

/// Sessions beyond this number are not taken into memory; their list must also fit into one chunk.
const MAX_SESSIONS: usize = 100_000;
/// Longer ids are none of OpenCode's.
const MAX_ID: usize = 128;

/// Why the sessions of a database are not known.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// A database of something else, or one that nothing was ever written to.
    #[error("it has no table `session`")]
    NoTable,
    /// More than fit into the facts of a snapshot.
    #[error("it holds more than {MAX_SESSIONS} sessions, too many to record")]
    TooMany,
    /// Something else in the place of an id.
    #[error("a session has an id that is none")]
    NoId,
    /// What SQLite says.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Session id → number of its messages, without the sessions that `opsctl verify` has made: they are gone in a moment.
///
/// # Errors
/// See [`SessionsError`]. `db` is a copy that nobody writes to.
pub fn sessions(db: &Connection) -> Result<BTreeMap<String, u64>, SessionsError> {
    // A view of that name could compute for ever.
    db.execute_batch("PRAGMA trusted_schema=OFF")?;
    let has = |table: &str| {
        let query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name = ?1";
        db.query_row(query, [table], |row| row.get::<_, i64>(0)).map(|found| found == 1)
    };
    if !has("session")? {
        return Err(SessionsError::NoTable);
    }
    let mut sessions = BTreeMap::new();
    let titled = "SELECT count(*) FROM pragma_table_info('session') WHERE name = 'title'";
    let has_titles = db.query_row(titled, [], |row| row.get::<_, i64>(0))? == 1;
    let title = if has_titles { "title" } else { "NULL" };
    let query = format!("SELECT id FROM session WHERE {title} IS NULL OR substr({title}, 1, length(?1)) <> ?1");
    let mut statement = db.prepare(&query)?;
    let mut rows = statement.query([PROBE_LABEL])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_str().ok().filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        sessions.insert(id.ok_or(SessionsError::NoId)?.to_owned(), 0);
        if sessions.len() > MAX_SESSIONS {
            return Err(SessionsError::TooMany);
        }
    }
    if has("message")? {
        let mut statement = db.prepare("SELECT session_id, count(*) FROM message GROUP BY session_id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // Messages of a session that is gone are nobody's.
            let found = row.get_ref(0)?.as_str().ok().and_then(|id| sessions.get_mut(id));
            if let (Some(messages), Ok(count)) = (found, u64::try_from(row.get::<_, i64>(1)?)) {
                *messages = count;
            }
        }
    }
    Ok(sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(sql).unwrap();
        db
    }

    #[test]
    fn messages_are_counted_by_session() {
        let db = database(
            "CREATE TABLE session (id text PRIMARY KEY, title text); CREATE TABLE message (id text, session_id text);
             INSERT INTO session VALUES ('ses_a', 'x'), ('ses_b', 'y');
             INSERT INTO message VALUES ('1', 'ses_a'), ('2', 'ses_a'), ('3', 'gone');",
        );
        let expected = [("ses_a".to_owned(), 2), ("ses_b".to_owned(), 0)];
        assert_eq!(sessions(&db).unwrap(), expected.into());
        db.execute_batch("INSERT INTO session VALUES ('ours', 'opsctl-verify-0123456789abcdef'), ('c', NULL)").unwrap();
        let ids: Vec<String> = sessions(&db).unwrap().into_keys().collect();
        assert_eq!(ids, ["c", "ses_a", "ses_b"], "what verify makes is no fact");
        let db = database("CREATE TABLE session (id text); INSERT INTO session VALUES ('ses_a');");
        assert_eq!(sessions(&db).unwrap().len(), 1, "without a table of messages");
    }

    #[test]
    fn what_is_no_table_of_sessions_is_not_counted() {
        assert!(matches!(sessions(&database("")), Err(SessionsError::NoTable)));
        let view = "CREATE VIEW session AS SELECT 'x' AS id;";
        assert!(matches!(sessions(&database(view)), Err(SessionsError::NoTable)));
        for bad in ["NULL", "7", "''", "x'00ff'"] {
            let db = database(&format!("CREATE TABLE session (id); INSERT INTO session VALUES ({bad});"));
            assert!(matches!(sessions(&db), Err(SessionsError::NoId)), "{bad}");
        }
    }

    #[test]
    fn there_is_a_limit() {
        let rows =
            "INSERT INTO session WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c";
        let db = database(&format!("CREATE TABLE session (id text); {rows} LIMIT 100001;"));
        assert!(matches!(sessions(&db), Err(SessionsError::TooMany)));
        db.execute_batch("DELETE FROM session WHERE id = '5'").unwrap();
        assert_eq!(sessions(&db).unwrap().len(), MAX_SESSIONS);
    }
}
