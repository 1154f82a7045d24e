//! The answers to earlier requests, so that a repeated request has no further effect.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

/// The number of keys that are remembered.
const CAP: usize = 256;

/// The answers to the last requests that have an idempotency key.
#[derive(Default)]
pub(crate) struct Answers(Mutex<VecDeque<(Asked, Answer)>>);

/// An answer that is available, or will be.
pub(crate) type Answer = Arc<OnceCell<Value>>;

/// Identifies a repeated request: digests of its idempotency key, and of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) request: String,
}

/// The same key came with a different request.
pub(crate) struct Reused;

impl Asked {
    pub(crate) fn new(key: &str, request: &str) -> Self {
        let digest = |text: &str| Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { key: digest(key), request: digest(request) }
    }
}

impl Answers {
    fn known(&self) -> MutexGuard<'_, VecDeque<(Asked, Answer)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot for the answer to this request.
    pub(crate) fn of(&self, asked: &Asked) -> Result<Answer, Reused> {
        let mut known = self.known();
        if let Some((before, answer)) = known.iter().find(|(before, _)| before.key == asked.key) {
            return if before == asked { Ok(answer.clone()) } else { Err(Reused) };
        }
        if known.len() == CAP {
            known.pop_front();
        }
        let answer = Answer::default();
        known.push_back((asked.clone(), answer.clone()));
        Ok(answer)
    }

    /// Forgets a request that has no answer, and will have none.
    pub(crate) fn forget(&self, asked: &Asked) {
        self.known().retain(|(before, answer)| before != asked || answer.initialized());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_that_of_its_request_alone_and_the_oldest_are_forgotten() {
        let answers = Answers::default();
        let of = |key: &str, request: &str| answers.of(&Asked::new(key, request));
        let Ok(first) = of("a", "one") else { panic!("new") };
        first.set(Value::from(1)).unwrap();
        assert_eq!(of("a", "one").ok().and_then(|answer| answer.get().cloned()), Some(Value::from(1)));
        assert!(of("a", "two").is_err());
        for number in 0..CAP {
            assert!(of(&number.to_string(), "x").is_ok());
        }
        assert!(of("a", "two").is_ok_and(|answer| answer.get().is_none()));
        assert_eq!(answers.known().len(), CAP);
    }
}
