//! Verifying hits of values: some loads run again in the background, and their results are compared with the stored values.

use std::{iter::once, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{ask::Ask, load::Load, value::Hit};
use crate::{
    engine::{enclosing::EnclosingLoads, verifier::Print, verify::Verification},
    entry::Entry,
    inherit,
};

/// How often values that differ are written once more, to see whether it is always the same: of those with two parts in any
/// order, one in 65,000 looks as if it were.
const REPEATS: usize = 8;

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
        if let Some(verification) = self.cache.verification(turn, &self.key, Some(&hit.entry), self.cache.load_limit())
        {
            let ask = Self { enclosing: EnclosingLoads::default(), ..self.clone() };
            self.cache.spawn_verification(ask.verified(verification, hit.entry.clone(), load));
        }
    }

    async fn verified<E>(self, verification: Verification, entry: Entry, load: Load<V, E>) {
        let Some(place) = verification.place() else { return };
        let age = Duration::from_millis(self.cache.now().saturating_sub(entry.deadlines().made));
        // The reads of this load must not count as reads of the caller.
        let enclosing = self.enclosing.clone().placed(self.cache.load_limit(), place.clone());
        let enclosing = enclosing.loading(&self.cache, once(&self.key));
        let loading = inherit::collect(enclosing.hold(async { load(None).await }));
        let Some((Ok(loaded), reads)) = verification.load(place, Box::pin(loading)).await else { return };
        // A value that its load would not store says nothing of the stored one: it may be a fallback, or made from one.
        let (terms, at) = (self.terms_of(&loaded), self.cache.moment());
        if terms.settle(&terms.apply_to(&reads, at), at).is_err() {
            return;
        }
        let Some((stored, loaded)) = self.as_written(&entry, &loaded.value) else { return };
        if !verification.finds_again(&entry).await {
            return;
        }
        let (stored, loaded) = (Print::of_value(&stored), Print::of_value(&loaded));
        verification.compare(&entry, Duration::from_secs(age.as_secs()), stored, loaded).await;
    }

    /// The bytes of the stored value and of the loaded one, as this cache's codec writes what a call gets of them: another codec
    /// may have written the entry. `None` if they can't be compared, since the same value has other bytes each time, such as a
    /// `HashMap`.
    fn as_written(&self, entry: &Entry, loaded: &V) -> Option<(Vec<u8>, Vec<u8>)> {
        let codec = self.cache.codec();
        let written = codec.encode(loaded).ok()?;
        let of_stored = || codec.encode(&codec.decode::<V>(entry.meta(), entry.payload()).ok()?).ok();
        let of_loaded = || codec.encode(&codec.decode_own::<V>(&written).ok()?).ok();
        let (stored, loaded) = (of_stored()?, of_loaded()?);
        let is_lasting =
            || (0..REPEATS).all(|_| of_stored().as_ref() == Some(&stored) && of_loaded().as_ref() == Some(&loaded));
        (stored == loaded || is_lasting()).then_some((stored, loaded))
    }
}
