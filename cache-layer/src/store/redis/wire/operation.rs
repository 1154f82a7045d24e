//! What a round trip is called in a trace, by OpenTelemetry's conventions for database clients.

use redis::RedisError;
use tracing::{Span, debug_span, field::Empty};

use crate::store::StoreError;

/// A round trip to the server: one command, one script, or several of these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    name: &'static str,
    script: Option<&'static str>,
}

impl Operation {
    /// What round trips are counted as: by its script, or else by its command.
    pub(crate) const KINDS: [&str; 20] = [
        "GET",
        "MGET",
        "acquire",
        "last_invalidation",
        "watch",
        "renew",
        "release",
        "fail",
        "stamp",
        "commit",
        "put",
        "invalidate_tag",
        "soften_tag",
        "UNLINK",
        "soften_entry",
        "SCAN",
        "ASKING",
        "PING",
        "INFO",
        "other",
    ];

    /// The place among [`KINDS`](Self::KINDS).
    pub(crate) fn kind(self) -> usize {
        let kind = self.script.unwrap_or(self.name);
        let known = Self::KINDS.iter().position(|known| *known == kind);
        debug_assert!(known.is_some(), "{kind} is missing among the kinds of operations");
        known.unwrap_or(Self::KINDS.len() - 1)
    }

    pub(crate) const fn command(name: &'static str) -> Self {
        Self { name, script: None }
    }

    /// The script that matters among those that are called.
    pub(crate) const fn script(script: &'static str) -> Self {
        Self { name: "EVALSHA", script: Some(script) }
    }

    /// Several commands at once, of which one says what they are for.
    pub(crate) const fn pipeline(script: &'static str) -> Self {
        Self { name: "PIPELINE", script: Some(script) }
    }

    /// The span of this round trip to `server`.
    pub(crate) fn span(self, server: &Server) -> Span {
        debug_span!(
            "redis",
            otel.name = self.name,
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "redis",
            db.operation.name = self.name,
            db.stored_procedure.name = self.script,
            db.response.status_code = Empty,
            server.address = &*server.address,
            server.port = server.port,
            "error.type" = Empty,
        )
    }
}

/// Where a connection leads.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    /// None of a socket in the file system.
    pub(crate) port: Option<i64>,
}

/// Tells the span of a round trip how it failed.
pub(crate) fn failed(span: &Span, error: &StoreError, reply: Option<&RedisError>) {
    if span.is_disabled() {
        return;
    }
    span.record("otel.status_code", "ERROR");
    // Of a pipeline, the first of its errors.
    let errors = reply.and_then(|error| error.clone().into_server_errors());
    let code = errors.as_ref().and_then(|errors| errors.first()).map(|(_, error)| error.code());
    if let Some(code) = code {
        span.record("db.response.status_code", code);
    }
    let kind = match error {
        StoreError::TimedOut => "timeout",
        StoreError::Unavailable => "disconnected",
        StoreError::Full => "full",
        StoreError::Failed(_) => "error",
    };
    span.record("error.type", code.unwrap_or(kind));
}
