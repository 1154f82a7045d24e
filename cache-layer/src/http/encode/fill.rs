//! The commit of a response that may be sent in several codings. Its client has its answer by then.

use std::sync::Arc;

use http::HeaderMap;

use super::encoders::encode_here;
use crate::{
    engine::permit::{Demand, WritePermit},
    entry::Form,
    http::{context::Context, response_entry::ResponseEntry},
    store::Writes,
    tag::Tags,
};

/// What encodes a response that is being loaded.
pub(in crate::http) struct Encoding {
    pub(in crate::http) context: Arc<Context>,
    /// The request that it answers.
    pub(in crate::http) request: Arc<HeaderMap>,
}

impl Encoding {
    /// Stores what was loaded: in memory, it is encoded afterwards, in the coding that its request would have liked best. Other stores
    /// are written to once.
    pub(in crate::http) async fn commit(self, mut permit: Box<WritePermit>, mut writes: Writes, tags: Tags) {
        let Self { context, request } = self;
        if !context.cache.is_local() {
            // The lease must outlast it.
            if permit.while_loading(context.encode(&mut writes), || Demand::Awaited).await.is_none() {
                return permit.abandon();
            }
            return permit.commit(writes, tags).await;
        }
        // The response's own comes last. A handle on it would have the store copy what it stamps.
        let key = writes.entries.last().map(|(key, _)| key.clone());
        permit.commit(writes, tags).await;
        let stored = key.and_then(|key| context.cache.peek(&key)).and_then(ResponseEntry::new);
        if let Some(stored) = stored.filter(|stored| stored.response().info.traits.encodable)
            && let Some(wanted) = context.choose(&stored, &request).wanted
        {
            context.encoders.start(&context.cache, &stored, wanted);
        }
    }
}

impl Context {
    /// Encodes the response that is to be written to a store outside of this process, in the codings that are kept there.
    async fn encode(&self, writes: &mut Writes) {
        let Some(encode) = &self.policy.encode else { return };
        let Some((_, entry)) = writes.entries.last_mut() else { return };
        if !encode.is_long_enough(entry.payload_length()) {
            return;
        }
        for encoder in encode.stored_encoders() {
            // What large entries are compressed in by every commit has no bound of its own.
            let form = match encoder.coding().is_zstd() {
                true => encode_here(&self.cache, entry.payload(), encoder),
                false => self.encoders.encode(&self.cache, entry, encoder).await,
            };
            if form != Form::Unmade && *entry.form(encoder) == Form::Unmade {
                *entry = entry.clone().with_form(encoder, form);
            }
        }
    }
}
