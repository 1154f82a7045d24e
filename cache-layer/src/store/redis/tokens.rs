//! Tag tokens as this connection last read them, kept right by the server's tracking.
//!
//! Tokens are read with tracking on, and the server pushes a name as soon as its token changes. The connection delivers
//! pushes and replies in order, and pushes are applied inline, before the next reply is handed out. So whoever got the
//! reply to a `GET` sees a table in which every invalidation that came before that `GET` has been applied.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::{EVERYTHING, TOKEN_LIFE};
use crate::{
    clock::millis,
    sync::Mutex,
    tag::{TagStamp, TagState, TagToken},
};

/// How much longer a token lives than what carries it, and at least: so that it is not the first to go, and is still there
/// for whatever is loaded in place of an entry that is asked for often.
const SPARE_PART: u64 = 4;
const SPARE: Duration = Duration::from_secs(2);
/// How long the token of a tag that was invalidated is kept, whatever comes to carry it. It tells loads that were under way
/// apart from those that began since; once it is gone, those of the former that end so late are not stored.
pub(super) const INVALIDATED: Duration = Duration::from_secs(60);

/// For how long a tag's token is kept that entries with so many milliseconds left are to carry: at least for so long, for so
/// long if it is made, and for so long if it has to be extended.
///
/// A token lives as long as what carries it: tags are named by what clients ask for. Without one an entry is void, so that
/// what is lost too early costs a load. The one that every entry carries is kept for long, being one.
pub(super) fn lives(tag: &str, longest: u64) -> [String; 3] {
    let spare = (longest / SPARE_PART).max(millis(SPARE));
    let [least, made, extended] = if tag == EVERYTHING {
        let life = longest.saturating_mul(2).max(millis(TOKEN_LIFE));
        [life / 2, life, life]
    } else {
        [longest, longest.saturating_add(spare), longest.saturating_mul(2).saturating_add(spare)]
    };
    [least, made, extended].map(|life| life.to_string())
}

/// As [`lives`], of a token that an invalidation writes.
pub(super) fn life_invalidated(tag: &str) -> u64 {
    millis(if tag == EVERYTHING { TOKEN_LIFE } else { INVALIDATED })
}

/// Tags known at one time; above that the table starts anew, at the cost of reading tokens again.
const CAP: usize = 100_000;

#[derive(Debug)]
enum Slot {
    /// A read is under way. Its answer is kept only if no push removed this slot in the meantime: the reply may be
    /// handled later than a push that came after it.
    Asked(u64),
    Known(TagToken),
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Arc<str>, Slot>>,
}

/// What the table says about an entry's stamps.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Known(TagState),
    /// These tags must be read first; by the others, it stands so.
    Unknown(Vec<Arc<str>>, TagState),
}

impl Tokens {
    fn slots(&self) -> MutexGuard<'_, HashMap<Arc<str>, Slot>> {
        self.slots.lock()
    }

    pub(super) fn judge(&self, stamps: &[TagStamp]) -> Verdict {
        let slots = self.slots();
        let mut unknown = Vec::new();
        let mut state = TagState::Current;
        for TagStamp { tag, token } in stamps {
            match slots.get(tag) {
                Some(Slot::Known(current)) => state = state.and(token.compared_with(current)),
                Some(Slot::Asked(_)) | None => unknown.push(tag.clone()),
            }
        }
        if unknown.is_empty() || state == TagState::Invalid {
            Verdict::Known(state)
        } else {
            Verdict::Unknown(unknown, state)
        }
    }

    /// The token of a tag, if it is known.
    pub(super) fn get(&self, tag: &str) -> Option<TagToken> {
        match self.slots().get(tag) {
            Some(Slot::Known(token)) => Some(*token),
            Some(Slot::Asked(_)) | None => None,
        }
    }

    /// Says that `tags` are about to be read. To be called before the read is sent.
    pub(super) fn ask(&self, tags: &[Arc<str>]) -> u64 {
        let question = fastrand::u64(..);
        let mut slots = self.slots();
        if slots.len() + tags.len() > CAP {
            slots.clear();
        }
        for tag in tags {
            slots.insert(tag.clone(), Slot::Asked(question));
        }
        question
    }

    /// Takes the answer to `question`.
    pub(super) fn answer(&self, question: u64, tag: &Arc<str>, token: Option<TagToken>) {
        let mut slots = self.slots();
        if matches!(slots.get(tag), Some(Slot::Asked(asked)) if *asked == question) {
            match token {
                Some(token) => slots.insert(tag.clone(), Slot::Known(token)),
                None => slots.remove(tag),
            };
        }
    }

    /// The tag's token changed.
    pub(super) fn forget(&self, tag: &str) {
        self.slots().remove(tag);
    }

    /// Every token may have changed.
    pub(super) fn forget_all(&self) {
        self.slots().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(tag: &str, last: u8) -> TagStamp {
        let mut token = *b"000000000000000a0123456789abcdei";
        token[30] = last;
        TagStamp { tag: tag.into(), token: TagToken(token) }
    }

    #[test]
    fn a_push_while_a_read_is_under_way_wins_over_its_answer() {
        let tokens = Tokens::default();
        let old = stamp("a", b'0');
        let question = tokens.ask(std::slice::from_ref(&old.tag));
        tokens.forget("a");
        tokens.answer(question, &old.tag, Some(old.token));
        assert_eq!(tokens.judge(&[old]), Verdict::Unknown(vec!["a".into()], TagState::Current));
    }

    #[test]
    fn an_older_answer_does_not_stand_in_for_a_newer_question() {
        let tokens = Tokens::default();
        let (old, new) = (stamp("a", b'0'), stamp("a", b'1'));
        let first = tokens.ask(std::slice::from_ref(&old.tag));
        tokens.forget("a");
        let second = tokens.ask(std::slice::from_ref(&old.tag));
        tokens.answer(first, &old.tag, Some(old.token));
        assert_eq!(tokens.judge(std::slice::from_ref(&old)), Verdict::Unknown(vec!["a".into()], TagState::Current));
        tokens.answer(second, &old.tag, Some(new.token));
        assert_eq!(tokens.judge(&[old]), Verdict::Known(TagState::Invalid));
        assert_eq!(tokens.judge(&[new]), Verdict::Known(TagState::Current));
    }

    #[test]
    fn the_table_is_bounded() {
        let tokens = Tokens::default();
        for i in 0..CAP + 10 {
            tokens.ask(&[i.to_string().into()]);
        }
        assert!(tokens.slots().len() <= CAP);
    }
}
