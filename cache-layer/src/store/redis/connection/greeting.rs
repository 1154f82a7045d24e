//! The greeting of a server: whether this store can use the server, and if not, what to do about it.

use std::collections::HashMap;

use redis::{ErrorKind, RedisError, RedisResult, Value, aio::MultiplexedConnection};

use crate::store::redis::wire::errors::{is_not_allowed, proves_connection_useless};

/// The oldest version of Redis, and of servers that number their versions like Redis.
const OLDEST: (u32, u32) = (7, 0);

/// An error if the server can't be used. `alone`: it must have the whole data.
pub(crate) async fn check(driver: &mut MultiplexedConnection, alone: bool) -> RedisResult<()> {
    let greeting: RedisResult<HashMap<String, Value>> = redis::cmd("HELLO").query_async(driver).await;
    match greeting {
        Ok(greeting) => judge(&greeting, alone),
        Err(error) if is_not_allowed(&error) || !proves_connection_useless(&error) => {
            tracing::debug!(%error, "Redis does not say what it is");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn judge(greeting: &HashMap<String, Value>, alone: bool) -> RedisResult<()> {
    let field = |name: &str| match greeting.get(name) {
        Some(Value::BulkString(text)) => str::from_utf8(text).unwrap_or_default(),
        Some(Value::SimpleString(text)) => text,
        _ => "",
    };
    let (server, version) = (field("server"), field("version"));
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let known = matches!(server, "redis" | "valkey" | "redict");
    if let (true, Some(major), Some(minor)) = (known, numbers.next(), numbers.next())
        && (major, minor) < OLDEST
    {
        return Err(unusable(format!("Redis 7.0 or Valkey 7.2, or newer, is needed; this is {server} {version}")));
    }
    match field("mode") {
        "cluster" if alone => Err(unusable(
            "the server is a node of a cluster: its URL begins with redis+cluster:// instead of redis://".to_owned(),
        )),
        "sentinel" => Err(unusable(
            "the server is a sentinel: its URL is redis+sentinel://HOST/NAME, with the primary's name".to_owned(),
        )),
        _ if matches!(field("role"), "replica" | "slave") => Err((ErrorKind::Io, "the server is a replica").into()),
        _ => Ok(()),
    }
}

fn unusable(what: String) -> RedisError {
    (ErrorKind::InvalidClientConfig, "this server can't be used", what).into()
}

/// The reason why a connection was not made, if the error alone doesn't say what to do.
pub(crate) fn explain(error: RedisError) -> RedisError {
    if error.kind() == ErrorKind::RESP3NotSupported {
        return unusable(format!(
            "Redis 7.0 or Valkey 7.2, or newer, is needed; this one does not speak RESP3: {error}"
        ));
    }
    if error.code() == Some("NOAUTH") {
        return (ErrorKind::AuthenticationFailed, "the server wants a password", error.to_string()).into();
    }
    // Not an unreachable server, nor one that has gone silent.
    if error.is_connection_dropped() && !error.is_connection_refusal() && !error.is_timeout() {
        let what = "the connection was closed instead of an answer to HELLO 3: what is there, Redis or a proxy before it, \
                    must speak RESP3";
        return (ErrorKind::Io, what, error.to_string()).into();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(fields: &[(&str, &str)], alone: bool) -> Result<(), String> {
        let text = |text: &str| Value::BulkString(text.into());
        let greeting = fields.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        judge(&greeting, alone).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_that_is_too_old_is_named_with_what_is_needed() {
        let error = judged(&[("server", "redis"), ("version", "6.0.16"), ("mode", "standalone")], true).unwrap_err();
        assert!(error.contains("7.0") && error.contains("this is redis 6.0.16"), "{error}");
        for (server, version) in [
            ("redis", "7.0.15"),
            ("redis", "8.0.2"),
            ("redict", "7.3.6"),
            ("valkey", "9.1.2"),
            ("other", "1.0"),
            ("redis", ""),
        ] {
            assert_eq!(judged(&[("server", server), ("version", version)], true), Ok(()), "{server} {version}");
        }
    }

    #[test]
    fn a_server_that_wants_a_password_says_so_in_plain_words() {
        let told = "NOAUTH HELLO must be called with the client already authenticated";
        let refused = redis::parse_redis_value(format!("-{told}\r\n").as_bytes()).and_then(Value::extract_error);
        let error = explain(refused.unwrap_err()).to_string();
        assert!(error.contains("the server wants a password") && error.contains("NOAUTH"), "{error}");
    }

    #[test]
    fn a_server_of_another_kind_is_told_with_its_url() {
        let error = judged(&[("mode", "cluster")], true).unwrap_err();
        assert!(error.contains("redis+cluster://"), "{error}");
        assert_eq!(judged(&[("mode", "cluster")], false), Ok(()));
        let error = judged(&[("mode", "sentinel")], true).unwrap_err();
        assert!(error.contains("redis+sentinel://"), "{error}");
        assert!(judged(&[("mode", "standalone"), ("role", "replica")], true).is_err());
        assert_eq!(judged(&[("mode", "standalone"), ("role", "master")], true), Ok(()));
    }
}
