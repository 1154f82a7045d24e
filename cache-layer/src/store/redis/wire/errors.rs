//! What an error says about the server that answered it.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Whether the error means that the connection, or its server, will answer nothing else for now.
pub(crate) fn proves_connection_useless(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(
            error.kind(),
            ErrorKind::Parse
                | ErrorKind::AuthenticationFailed
                | ErrorKind::Server(
                    ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly
                )
        )
}

/// Whether the server allows this command to no user, or not to this one.
pub(crate) fn is_not_allowed(error: &RedisError) -> bool {
    // A renamed command is unknown.
    let unknown = || error.detail().is_some_and(|detail| detail.starts_with("unknown command"));
    error.code() == Some("NOPERM") || (error.code() == Some("ERR") && unknown())
}

/// Whether the server does not answer this command, now or later: it is allowed to no user, or unknown, or not supported.
#[cfg(feature = "cluster")]
pub(crate) fn is_refused(error: &RedisError) -> bool {
    is_not_allowed(error) || error.code() == Some("ERR")
}

/// Whether some of the keys are not on this server of a cluster, while their slot is being moved to another one.
pub(crate) fn is_being_moved(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain))
}

/// Whether the server refuses to store more. Several calls in one round trip fail with the first one's error.
pub(crate) fn is_out_of_memory(error: &RedisError) -> bool {
    has_code(error, "OOM")
}

/// Whether the key holds a value of another type.
pub(crate) fn is_wrong_type(error: &RedisError) -> bool {
    has_code(error, "WRONGTYPE")
}

fn has_code(error: &RedisError, code: &str) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == code))
}
