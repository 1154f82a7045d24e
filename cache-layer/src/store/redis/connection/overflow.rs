//! The patterns for which the list of bans has no room: they wait here until they are swept, all that wait in one sweep.

use tokio::sync::oneshot;

use crate::{
    pattern::Pattern,
    store::{Hardness, StoreError},
    sync::Mutex,
};

#[derive(Default)]
pub(crate) struct Overflow {
    waiting: Mutex<Vec<Waiting>>,
    /// The sweep under way.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

pub(crate) struct Waiting {
    pub(crate) pattern: Pattern,
    pub(crate) hardness: Hardness,
    /// Gets the result of the sweep.
    pub(crate) done: oneshot::Sender<Result<(), StoreError>>,
}

impl Overflow {
    /// Adds a pattern, and returns how it is told of its sweep.
    pub(crate) fn add(&self, pattern: &Pattern, hardness: Hardness) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, swept) = oneshot::channel();
        self.waiting.lock().push(Waiting { pattern: pattern.clone(), hardness, done });
        swept
    }

    /// All that wait; in groups of one hardness each, which one sweep takes.
    pub(crate) fn take(&self) -> Vec<Vec<Waiting>> {
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
