//! Verifying hits of values: some loads run again in the background, and their results are compared with the stored values.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::{ask::Ask, load::Load, value::Hit};
use crate::{
    engine::{load_limit::Places, verifier::Print, verify::Verification},
    entry::Entry,
    inherit,
};

impl<V> Ask<V>
where
    V: Serialize + DeserializeOwned + Send + 'static,
{
    /// Verifies a fresh value, if it is its turn.
    pub(super) fn verify<E: Send + 'static>(&self, hit: &Hit<V>, load: Load<V, E>) {
        let Some(turn) = self.cache.verification_turn(&self.key) else { return };
        // A load that is part of another load has no place of its own to give back.
        if self.is_placed() || !hit.entry.is_taken_for_current(self.cache.now()) {
            return;
        }
        if let Some(verification) = self.cache.verification(turn, &self.key, self.cache.load_limit()) {
            let ask = Self { places: Places::default(), ..self.clone() };
            self.cache.spawn_verification(ask.verified(verification, hit.entry.clone(), load));
        }
    }

    async fn verified<E>(self, verification: Verification, entry: Entry, load: Load<V, E>) {
        let Some(place) = verification.place() else { return };
        let age = Duration::from_millis(self.cache.now().saturating_sub(entry.deadlines().made));
        // The reads of this load must not count as reads of the caller.
        let places = self.places.and(self.cache.load_limit(), place.clone());
        let loading = inherit::collect(places.hold(load(None)));
        let Some((Ok(loaded), _)) = verification.load(place, Box::pin(loading)).await else { return };
        // A value that says it must not be stored may differ each time.
        let Ok(bytes) = self.cache.codec().encode(&loaded.value) else { return };
        if !verification.finds_again(&entry).await {
            return;
        }
        let (stored, loaded) = (Print::of_value(entry.payload()), Print::of_value(&bytes));
        verification.compare(entry.id(), Duration::from_secs(age.as_secs()), stored, loaded).await;
    }
}
