//! The state from which all answers are made.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cache_layer::{
    Cache, CacheLayer, Explanation, QueryLayer,
    store::{MemoryStore, RedisStore, TieredStore},
};

use http::Request;
use http_body_util::Full;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{access::Access, answers::Answers, audit::Audit, problem::Problem, recorder::Recorder};

/// How long to examine what a purge would reach.
pub(crate) const LOOKING: Duration = Duration::from_secs(5);
/// How many counts run at one time: each makes the server examine every entry.
const COUNTS: usize = 2;
/// How many clients watch decisions at one time.
const WATCHERS: usize = 16;

/// Clones share the state.
#[derive(Clone)]
pub(crate) struct Context(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) cache: Cache,
    pub(crate) layers: Vec<(String, Layer)>,
    pub(crate) memory: Option<Memory>,
    pub(crate) redis: Option<RedisStore>,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) access: Access,
    pub(crate) audit: Audit,
    pub(crate) answers: Answers,
    pub(crate) places: Places,
    /// When it was made, in milliseconds since the Unix epoch.
    pub(crate) since: u64,
}

/// Limits what clients can keep busy at one time.
pub(crate) struct Places {
    counting: Semaphore,
    watching: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { counting: Semaphore::new(COUNTS), watching: Arc::new(Semaphore::new(WATCHERS)) }
    }
}

/// Entries in this process.
#[derive(Clone, Debug)]
pub(crate) enum Memory {
    All(MemoryStore),
    FirstTier(TieredStore),
}

/// A layer over the cache.
#[derive(Clone)]
pub(crate) enum Layer {
    Plain(CacheLayer),
    /// A layer that also answers requests by their content.
    Query(QueryLayer),
}

impl Layer {
    pub(crate) fn cache_layer(&self) -> &CacheLayer {
        match self {
            Self::Plain(layer) => layer,
            Self::Query(layer) => layer.cache_layer(),
        }
    }

    pub(crate) async fn explain(&self, request: &Request<Full<Bytes>>, content: Bytes) -> Explanation {
        match self {
            Self::Plain(layer) => layer.explain(request).await,
            Self::Query(layer) => layer.explain(request, content).await,
        }
    }
}

impl Context {
    /// The layer with this name, or the only one.
    pub(crate) fn layer(&self, name: Option<&str>) -> Result<(&str, &Layer), Problem> {
        let names = || self.0.layers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let found = match (name, &self.0.layers[..]) {
            (Some(name), layers) => layers.iter().find(|(known, _)| known == name),
            (None, [only]) => Some(only),
            (None, []) => return Err(Problem::bad_request("the application has named no layer")),
            (None, _) => return Err(Problem::bad_request(format!("layer: must be given, one of {}", names()))),
        };
        let Some((name, layer)) = found else {
            return Err(Problem::bad_request(format!("unknown layer; the layers are {}", names())));
        };
        Ok((name, layer))
    }

    /// The right to count, until it is dropped; `None` if there was none for as long as a count may take.
    pub(crate) async fn turn_to_count(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        timeout(LOOKING, self.0.places.counting.acquire()).await.ok()?.ok()
    }

    /// The right to watch, until it is dropped; `None` if as many clients as may do so are watching.
    pub(crate) fn place_to_watch(&self) -> Option<OwnedSemaphorePermit> {
        self.0.places.watching.clone().try_acquire_owned().ok()
    }

    /// The recorder, for questions that only it can answer.
    pub(crate) fn recorder(&self) -> Result<&Recorder, Problem> {
        self.0.recorder.as_ref().ok_or_else(|| {
            Problem::new(
                http::StatusCode::NOT_FOUND,
                "nothing is recorded: the application's cache has no `Recorder` among its observers",
            )
        })
    }
}
