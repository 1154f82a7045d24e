//! What a miss moves about: a future that grows costs every miss.

use std::{
    convert::Infallible,
    mem::{size_of, size_of_val},
    sync::Arc,
};

use http::{Request, Response};
use tower::service_fn;
use tracing::Span;

use super::{
    asking::{Asking, Sending},
    body::ResponseBody,
    context::Context,
    fetch::fetch_missing,
    granted_load::Asked,
    load::Load,
    plan::CacheRequest,
    select::{Miss, Route},
    target::Target,
};
use crate::{
    engine::{Cache, enclosing::EnclosingLoads, flight::Role, permit::Purpose},
    semantics::cache_status::ForwardReason,
    store::{MemoryStore, Seen},
};

/// Bytes, as a debug build has them.
const MOST: usize = 2_048;

#[tokio::test]
async fn the_futures_of_a_miss_are_small() {
    let context = Arc::new(Context::new(Cache::new(MemoryStore::new(1 << 20))));
    let service = service_fn(async |_: Request<String>| Ok::<_, Infallible>(Response::new(String::new())));
    let request = || Request::get("http://a/").body(String::new()).unwrap();
    let target = || Target::of_uri(&context.sites, request().uri()).unwrap().into_owned();
    let key = target().key(&context.key_rules(request().headers()));
    let lookup = context.cache.lookup_span(&key);
    let sending = || Box::pin(Sending::new(service, request(), key.clone(), target()));
    let asking = || Asking { context: context.clone(), sending: sending() };
    let fetched = size_of_val(&fetch_missing(asking(), Seen::Nothing, lookup));

    let Role::Leader(flight) = context.cache.flights().join(&key) else { panic!("nobody else is there") };
    let asked = CacheRequest::as_get(&context, target(), key.clone(), &request());
    let detail = Route { why: ForwardReason::UriMiss, varies: None };
    let miss = Miss { key: key.clone(), expected: Some(Seen::Nothing), stale: None, detail };
    let (purpose, patience) = (Purpose::Answer, context.cache.patience());
    let enclosing = EnclosingLoads::default();
    let asked = Box::new(Asked { context: context.clone(), request: asked, miss, enclosing });
    let load = Load { asked, sending: sending(), purpose, patience };
    let mut led = 0;
    let task = context.cache.flights().spawn_load(Span::none(), |reply_to| {
        let lead = load.lead(flight, reply_to);
        led = size_of_val(&lead);
        lead
    });
    task.reply().await;
    // It lies beside an answer in the future of each request.
    let answer = size_of::<Response<ResponseBody<String>>>();
    assert!(fetched <= answer && led <= MOST, "{fetched}, of an answer {answer}, and {led}");
}
