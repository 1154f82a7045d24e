//! The commit of a response that may be sent in several codings, after its client has been answered.

use std::sync::Arc;

use http::HeaderMap;

use tokio::task::yield_now;

use crate::{
    engine::permit::{Demand, WritePermit},
    entry::Form,
    http::{context::Context, response_entry::ResponseEntry},
    store::Writes,
    tag::Tags,
};

/// Encodes a response that is being loaded.
pub(in crate::http) struct Encoding {
    pub(in crate::http) context: Arc<Context>,
    /// The request that it answers.
    pub(in crate::http) request: Arc<HeaderMap>,
    /// Whether it takes the place of a stale one, so that it is not asked for once.
    pub(in crate::http) is_asked_again: bool,
}

impl Encoding {
    /// Stores a loaded response. In memory, it is encoded afterwards, in the coding that its request prefers, if it has been asked
    /// for before; its first hit has any other one encoded. In other stores it is encoded first, so that it is written once.
    pub(in crate::http) async fn commit(self, mut permit: Box<WritePermit>, mut writes: Writes, tags: Tags) {
        let Self { context, request, is_asked_again } = self;
        if permit.refusal().is_some() {
            return permit.commit(writes, tags).await;
        }
        if !context.cache.is_local() {
            // The lease must outlast the encoding.
            if permit.while_loading(context.encode(&mut writes), || Demand::Awaited).await.is_none() {
                return permit.abandon();
            }
            return permit.commit(writes, tags).await;
        }
        if !is_asked_again {
            return permit.commit(writes, tags).await;
        }
        // The response's own entry is the last. Holding a handle on it would make the store copy it.
        let key = writes.entries.last().map(|(key, _)| key.clone());
        permit.commit(writes, tags).await;
        let stored = key.and_then(|key| context.cache.peek(&key)).and_then(ResponseEntry::new);
        if let Some(stored) = stored.filter(|stored| stored.response().info.traits.encodable)
            && let Some(wanted) = context.choose(&stored, &request).wanted
        {
            context.encoding_jobs.start(&context.cache, &stored, wanted);
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
        // A validated response may have some of them.
        let unmade: Vec<_> = encode
            .stored_encoders(self.cache.keeps_additions())
            .filter(|encoder| *entry.form(*encoder) == Form::Unmade)
            .collect();
        if unmade.is_empty() {
            return;
        }
        // The client whose request caused this is answered first.
        yield_now().await;
        for encoder in unmade {
            let form = self.encoding_jobs.encode_for_store(&self.cache, entry, encoder).await;
            if form != Form::Unmade {
                *entry = entry.clone().with_form(encoder, form);
            }
        }
    }
}
