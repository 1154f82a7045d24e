//! Inheritance: a result that is made from cached values carries their tags, and is fresh no longer than they are.
//!
//! A *scope* is opened around code that makes a cacheable result: a handler behind a layer that inherits, and every
//! typed load. Each typed read inside adds to the innermost scope. A load adds the reads of its own scope to the scope of its
//! caller, so that reads at the bottom are inherited up to the top.

use std::{cell::RefCell, collections::BTreeSet, mem::take, sync::Arc};

use crate::tag::Tags;

tokio::task_local! {
    static SCOPE: RefCell<Reads>;
}

/// The reads of a scope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    tags: BTreeSet<Arc<str>>,
    /// When the first of the values that were read ceases to be fresh, in milliseconds since the Unix epoch, by this machine's own clock:
    /// the caches of a process may have different ones.
    pub(crate) fresh_until: Option<u64>,
}

impl Reads {
    #[cfg(feature = "typed")]
    pub(crate) fn new(tags: &Tags, fresh_until: Option<u64>) -> Self {
        Self { tags: tags.as_slice().iter().cloned().collect(), fresh_until }
    }

    #[cfg(feature = "typed")]
    fn add(&mut self, other: Self) {
        self.tags.extend(other.tags);
        self.fresh_until = earliest(self.fresh_until, other.fresh_until);
    }

    /// These reads, with `tags` added.
    pub(crate) fn and(mut self, tags: &Tags) -> Self {
        self.tags.extend(tags.as_slice().iter().cloned());
        self
    }

    /// All tags: these, and `others`.
    pub(crate) fn tags_and(&self, others: Tags) -> Tags {
        if self.tags.is_empty() { others } else { Tags::new(self.tags.iter().map(AsRef::as_ref).chain(others.iter())) }
    }
}

/// The earlier of two times, where `None` means never.
#[cfg(feature = "typed")]
pub(crate) fn earliest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// Runs `work` in a scope of its own; also returns the reads of that scope.
pub(crate) async fn collect<T>(work: impl Future<Output = T>) -> (T, Reads) {
    let work = async {
        let output = work.await;
        (output, SCOPE.with(|reads| take(&mut *reads.borrow_mut())))
    };
    SCOPE.scope(RefCell::default(), work).await
}

/// Adds to the scope, if there is one.
#[cfg(feature = "typed")]
pub(crate) fn note(reads: impl FnOnce() -> Reads) {
    let _ = SCOPE.try_with(|scope| scope.borrow_mut().add(reads()));
}

#[cfg(all(test, feature = "typed"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scope_is_told_what_is_read_in_it_and_nothing_of_others() {
        note(|| unreachable!("there is nobody to tell"));
        let (((), inner), outer) = collect(async {
            note(|| Reads::new(&Tags::new(["outer"]), Some(7)));
            note(|| Reads::new(&Tags::new(["late"]), Some(9)));
            collect(async { note(|| Reads::new(&Tags::new(["inner"]), None)) }).await
        })
        .await;
        assert_eq!((inner.tags_and(Tags::default()), inner.fresh_until), (Tags::new(["inner"]), None));
        assert_eq!(
            (outer.tags_and(Tags::new(["own"])), outer.fresh_until),
            (Tags::new(["late", "outer", "own"]), Some(7))
        );
    }
}
