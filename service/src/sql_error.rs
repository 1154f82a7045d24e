//! What an error says of the database.

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const TOO_MANY_CONNECTIONS: &str = "53300";
/// <https://www.sqlite.org/rescode.html>
const SQLITE_BUSY: &str = "5";

/// Whether a PostgreSQL is there, and has no connection left.
pub(crate) fn is_full_of_connections(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code == TOO_MANY_CONNECTIONS)
}

/// Whether another process has the SQLite file locked.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code == SQLITE_BUSY)
}

/// The code of an error of the database itself: of PostgreSQL five characters, of SQLite a number.
fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether there was no database to answer, as opposed to one that refused the statement: it may be back soon.
pub(crate) fn is_absent(error: &sqlx::Error) -> bool {
    use sqlx::Error;
    match error {
        Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => true,
        Error::Database(_) => sqlstate(error).is_some_and(|code| match code.parse::<u32>() {
            // SQLite's primary code: busy, an I/O error, full, or can't be opened; or it was moved, which makes it read-only.
            Ok(number) if code.len() < 5 => matches!(number & 0xff, 5 | 10 | 13 | 14) || number == 1032,
            // PostgreSQL's classes: connection, authorization, catalog name, resources, operator intervention, system.
            _ => ["08", "28", "3D", "53", "57", "58"].iter().any(|class| code.starts_with(class)),
        }),
        _ => false,
    }
}
