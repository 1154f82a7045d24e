//! Sentinels: each connection asks them again which server is the primary.

use std::{fmt, sync::Arc, time::Duration};

use crate::sync::Mutex;

use redis::{AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult};
use tokio::time::timeout;

use super::endpoint::{at, places};
use crate::store::redis::wire::replies::no_answer;

/// How long one sentinel may take to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(crate) struct Sentinels(Arc<Inner>);

struct Inner {
    name: String,
    /// The first is the one that answered last.
    sentinels: Mutex<Vec<ConnectionInfo>>,
    /// The settings for the primary, at any address.
    primary: ConnectionInfo,
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.0.name, places(&self.sentinels()))
    }
}

impl Sentinels {
    pub(crate) fn new(name: &str, sentinels: Vec<ConnectionInfo>, primary: ConnectionInfo) -> Self {
        Self(Arc::new(Inner { name: name.to_owned(), sentinels: Mutex::new(sentinels), primary }))
    }

    /// The same, with these credentials for the sentinels themselves.
    pub(crate) fn with_credentials(&self, user: Option<&str>, password: &str) -> Self {
        let sentinels = self.sentinels().into_iter().map(|sentinel| {
            let mut settings = sentinel.redis_settings().clone().set_password(password);
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
            sentinel.set_redis_settings(settings)
        });
        Self::new(&self.0.name, sentinels.collect(), self.0.primary.clone())
    }

    fn sentinels(&self) -> Vec<ConnectionInfo> {
        self.0.sentinels.lock().clone()
    }

    /// A client of the server that the first sentinel to answer names. The connection has to check that the server really is the
    /// primary: the sentinel may be out of date.
    pub(crate) async fn primary(&self) -> RedisResult<Client> {
        let mut failure = RedisError::from((ErrorKind::InvalidClientConfig, "there is no sentinel"));
        for (index, sentinel) in self.sentinels().into_iter().enumerate() {
            let answer = timeout(PATIENCE, ask(&self.0.name, sentinel))
                .await
                .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer from a sentinel").into()));
            // The next attempt begins with another sentinel, in case this one is out of date.
            self.0.sentinels.lock().rotate_left(1);
            match answer {
                Ok((host, port)) => {
                    tracing::debug!(host, port, sentinel = index, "a sentinel named the primary");
                    return Client::open(at(&self.0.primary, host, port));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

async fn ask(name: &str, sentinel: ConnectionInfo) -> RedisResult<(String, u16)> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(None);
    let mut driver = Client::open(sentinel)?.get_multiplexed_async_connection_with_config(&config).await?;
    let address: Option<(String, String)> =
        redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut driver).await?;
    let unknown = (ErrorKind::InvalidClientConfig, "the sentinels know no primary of that name");
    let (host, port) = address.ok_or(unknown)?;
    let port = port.parse().ok().filter(|port| !host.is_empty() && *port != 0);
    port.map(|port| (host, port)).ok_or_else(no_answer)
}
