//! The names of round trips in traces, by OpenTelemetry's conventions for database clients.

use redis::RedisError;
use tracing::{Span, debug_span, field::Empty};

use crate::store::StoreError;

/// A round trip to the server: one command, one script, or several of these, one of which gives it its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Get,
    Claim,
    Mget,
    Acquire,
    LastInvalidation,
    Watch,
    Renew,
    Release,
    Fail,
    TagStamp,
    Commit,
    Put,
    InvalidateTag,
    SoftenTag,
    Ban,
    TakeOff,
    Elect,
    Unlink,
    SoftenEntry,
    Switch,
    Append,
    Last,
    Scan,
    Asking,
    Ping,
    Info,
}

impl Operation {
    /// Each at the index of its number.
    pub(crate) const ALL: [Self; 26] = [
        Self::Get,
        Self::Claim,
        Self::Mget,
        Self::Acquire,
        Self::LastInvalidation,
        Self::Watch,
        Self::Renew,
        Self::Release,
        Self::Fail,
        Self::TagStamp,
        Self::Commit,
        Self::Put,
        Self::InvalidateTag,
        Self::SoftenTag,
        Self::Ban,
        Self::TakeOff,
        Self::Elect,
        Self::Unlink,
        Self::SoftenEntry,
        Self::Switch,
        Self::Append,
        Self::Last,
        Self::Scan,
        Self::Asking,
        Self::Ping,
        Self::Info,
    ];

    /// The command that carries it, and the main script among those that are called.
    const fn command_and_script(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Get => ("GET", None),
            Self::Mget => ("MGET", None),
            Self::Claim | Self::Acquire | Self::LastInvalidation => ("PIPELINE", None),
            Self::Watch => ("GET", None),
            Self::Renew => ("EVALSHA", Some("renew")),
            Self::Release => ("EVALSHA", Some("release")),
            Self::Fail => ("EVALSHA", Some("fail")),
            Self::TagStamp => ("PIPELINE", Some("stamp")),
            Self::Commit => ("EVALSHA", Some("commit")),
            Self::Put => ("PIPELINE", Some("put")),
            Self::InvalidateTag => ("PIPELINE", Some("invalidate_tag")),
            Self::SoftenTag => ("PIPELINE", Some("soften_tag")),
            Self::Ban => ("PIPELINE", Some("ban")),
            Self::TakeOff => ("EVALSHA", Some("take_off")),
            Self::Elect => ("SET", None),
            Self::Unlink => ("UNLINK", None),
            Self::SoftenEntry => ("EVALSHA", Some("soften_entry")),
            Self::Switch => ("EVALSHA", Some("switch")),
            Self::Append => ("XADD", None),
            Self::Last => ("XREVRANGE", None),
            Self::Scan => ("SCAN", None),
            Self::Asking => ("ASKING", None),
            Self::Ping => ("PING", None),
            Self::Info => ("INFO", None),
        }
    }

    /// The name under which it is counted: its script, or the purpose of several commands, or else its command.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Acquire => "acquire",
            Self::LastInvalidation => "last_invalidation",
            Self::Watch => "watch",
            other => {
                let (command, script) = other.command_and_script();
                script.unwrap_or(command)
            }
        }
    }

    /// The span of this round trip to `server`.
    pub(crate) fn span(self, server: &Server) -> Span {
        let (command, script) = self.command_and_script();
        debug_span!(
            "redis",
            otel.name = command,
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "redis",
            db.operation.name = command,
            db.stored_procedure.name = script,
            db.response.status_code = Empty,
            server.address = &*server.address,
            server.port = server.port,
            "error.type" = Empty,
        )
    }
}

/// The address of a connection's server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    /// `None` for a Unix socket.
    pub(crate) port: Option<i64>,
}

/// Records in the span of a round trip how it failed.
pub(crate) fn failed(span: &Span, error: &StoreError, reply: Option<&RedisError>) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.status_code", "ERROR");
    // For a pipeline, the first of its errors.
    let errors = reply.and_then(|error| error.clone().into_server_errors());
    let code = errors.as_ref().and_then(|errors| errors.first()).map(|(_, error)| error.code());
    if let Some(code) = code {
        span.record("db.response.status_code", code);
    }
    let kind = match error {
        StoreError::TimedOut => "timeout",
        StoreError::Unavailable => "disconnected",
        StoreError::Full => "full",
        StoreError::Failed(_) | StoreError::Sealed => "error",
    };
    span.record("error.type", code.unwrap_or(kind));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_counted_in_its_own_place() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place, "{operation:?}");
        }
    }
}
