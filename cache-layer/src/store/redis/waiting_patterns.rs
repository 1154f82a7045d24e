//! The patterns for which the list of bans has no room: they wait here until they are swept, all that wait in one sweep.

use tokio::sync::oneshot;

use crate::{
    pattern::Pattern,
    store::{Extent, Hardness, StoreError},
    sync::Mutex,
};

/// The queue of one store.
#[derive(Default)]
pub(super) struct WaitingPatterns {
    waiting: Mutex<Vec<Waiting>>,
    /// The sweep under way.
    pub(super) turn: tokio::sync::Mutex<()>,
}

pub(super) struct Waiting {
    pub(super) pattern: Pattern,
    pub(super) hardness: Hardness,
    /// Gets the result of the sweep.
    pub(super) done: oneshot::Sender<Result<Extent, StoreError>>,
}

impl WaitingPatterns {
    /// Adds a pattern, and returns how it is told of its sweep.
    pub(super) fn add(&self, pattern: &Pattern, hardness: Hardness) -> oneshot::Receiver<Result<Extent, StoreError>> {
        let (done, swept) = oneshot::channel();
        self.waiting.lock().push(Waiting { pattern: pattern.clone(), hardness, done });
        swept
    }

    /// All that wait; in groups of one hardness each, which one sweep takes.
    pub(super) fn take(&self) -> Vec<Vec<Waiting>> {
        let mut groups: Vec<Vec<Waiting>> = Vec::new();
        for waiting in std::mem::take(&mut *self.waiting.lock()) {
            match groups.iter_mut().find(|group| group[0].hardness == waiting.hardness) {
                Some(group) => group.push(waiting),
                None => groups.push(vec![waiting]),
            }
        }
        groups
    }
}
