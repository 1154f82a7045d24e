//! Looking entries up.

use std::sync::Arc;

use bytes::Bytes;
use redis::{Pipeline, RedisError, aio::MultiplexedConnection};

use super::{
    RedisStore,
    link::{Link, Live},
    tokens::Verdict,
};
use crate::{
    entry::{Entry, envelope},
    key::Key,
    store::{Lookup, StoreError},
    tag::Token,
    telemetry::Rejection,
};

impl RedisStore {
    pub(super) async fn lookup(&self, key: &Key) -> Result<Lookup, StoreError> {
        let link = self.link(key);
        let live = link.live()?;
        let name = self.0.names.entry(key);
        let read = self.0.near.get().filter(|_| live.tracking).map(|near| near.ask(key));
        let mut pipeline = Pipeline::new();
        if read.is_some() {
            pipeline.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
        }
        pipeline.cmd("GET").arg(&name);
        let reply = link
            .run(&live, async |mut connection: MultiplexedConnection| {
                match pipeline.query_async::<(Option<Vec<u8>>,)>(&mut connection).await {
                    Err(error) if is_wrong_type(&error) => Ok(Err(Rejection::Type)),
                    reply => reply.map(|(bytes,)| Ok(bytes)),
                }
            })
            .await?;
        let bytes = match reply {
            Ok(Some(bytes)) => Bytes::from(bytes),
            Ok(None) => return Ok(Lookup::Absent),
            Err(rejection) => return Ok(Lookup::Rejected(rejection)),
        };
        match envelope::decode(key, &bytes) {
            Ok(entry) if self.is_current(link, &live, &entry).await? => {
                if let Some(read) = read {
                    read.answer(&live, &entry);
                }
                Ok(Lookup::Found(entry))
            }
            Ok(_) => Ok(Lookup::Rejected(Rejection::Tag)),
            Err(rejection) => Ok(Lookup::Rejected(rejection)),
        }
    }

    /// Whether every tag of `entry` still has the token that the entry carries. To be asked after the entry's bytes
    /// came in: then every invalidation that came before them counts.
    pub(super) async fn is_current(&self, link: &Link, live: &Arc<Live>, entry: &Entry) -> Result<bool, StoreError> {
        let unknown = match live.tokens.judge(entry.stamps()) {
            Verdict::Valid => return Ok(true),
            Verdict::Invalid => return Ok(false),
            Verdict::Unknown(unknown) => unknown,
        };
        let mut pipeline = Pipeline::new();
        if live.tracking {
            pipeline.cmd("CLIENT").arg("CACHING").arg("YES").ignore();
        }
        pipeline.cmd("MGET");
        for tag in &unknown {
            pipeline.arg(self.0.names.tag(tag));
        }
        let question = live.tracking.then(|| live.tokens.ask(&unknown));
        let (values,): (Vec<Option<Vec<u8>>>,) = link
            .run(live, async |mut connection: MultiplexedConnection| pipeline.query_async(&mut connection).await)
            .await?;
        let mut current = true;
        for (tag, value) in unknown.iter().zip(values) {
            let token = value.as_deref().and_then(Token::parse);
            if let Some(question) = question {
                live.tokens.answer(question, tag, token);
            }
            let carried = entry.stamps().iter().find(|stamp| stamp.tag == *tag);
            current &= token.is_some() && token == carried.map(|stamp| stamp.token);
        }
        Ok(current)
    }
}

fn is_wrong_type(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == "WRONGTYPE"))
}
