//! Answers that were given, so that a request that is sent again does nothing again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::sync::OnceCell;

/// Keys that are remembered.
const CAP: usize = 256;

/// The answers to the last requests that have an idempotency key.
#[derive(Default)]
pub(crate) struct Answers(Mutex<VecDeque<(String, String, Answer)>>);

/// One that is there, or will be.
pub(crate) type Answer = Arc<OnceCell<Value>>;

/// The same key came with another request.
pub(crate) struct Reused;

impl Answers {
    fn known(&self) -> MutexGuard<'_, VecDeque<(String, String, Answer)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of the answer to `request`, by its key.
    pub(crate) fn of(&self, key: &str, request: &str) -> Result<Answer, Reused> {
        let mut known = self.known();
        if let Some((_, before, answer)) = known.iter().find(|(one, ..)| one == key) {
            return if before == request { Ok(answer.clone()) } else { Err(Reused) };
        }
        if known.len() == CAP {
            known.pop_front();
        }
        let answer = Answer::default();
        known.push_back((key.to_owned(), request.to_owned(), answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_that_of_its_request_alone_and_the_oldest_are_forgotten() {
        let answers = Answers::default();
        let Ok(first) = answers.of("a", "one") else { panic!("new") };
        first.set(Value::from(1)).unwrap();
        assert_eq!(answers.of("a", "one").ok().and_then(|answer| answer.get().cloned()), Some(Value::from(1)));
        assert!(answers.of("a", "two").is_err());
        for number in 0..CAP {
            assert!(answers.of(&number.to_string(), "x").is_ok());
        }
        assert!(answers.of("a", "two").is_ok_and(|answer| answer.get().is_none()));
        assert_eq!(answers.known().len(), CAP);
    }
}
