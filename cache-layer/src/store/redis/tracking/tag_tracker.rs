//! The tokens of tags as a connection last read them, kept right by the server's tracking.
//!
//! Tokens are read with tracking on, and the server pushes a name as soon as its token changes. The connection delivers
//! pushes and replies in order, and pushes are applied inline, before the next reply is handed out. So whichever task has
//! the reply to a `GET` sees a table in which every invalidation that came before that `GET` has been applied.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::tracked::{Ticket, Tracked};
use crate::{
    bounded::Bound,
    ramp::Turn,
    tag::{TagRecord, TagStamp, TagState, TagToken},
};

/// Tags known at one time; above that the table starts anew, at the cost of reading tokens again.
const MOST: usize = 100_000;

#[derive(Debug)]
pub(crate) struct TagTracker(Tracked<Arc<str>, Known>);

/// A read of tokens under way.
pub(crate) struct TagReads<'a>(Vec<Ticket<'a, Arc<str>, Known>>);

/// What is known of a tag, and until when at least the server keeps it, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    record: TagRecord,
    until: Option<Instant>,
}

impl Known {
    pub(crate) fn token(&self) -> TagToken {
        self.record.token
    }

    /// Whether the server keeps it for so much longer, unless it runs out of memory.
    pub(crate) fn lives_for(&self, life: Duration) -> bool {
        let end = Instant::now().checked_add(life);
        self.until.zip(end).is_some_and(|(until, end)| end <= until)
    }
}

/// What the table says about an entry's stamps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Known(TagState),
    /// These tags must be read first; by the others, it stands so.
    Unknown(Vec<Arc<str>>, TagState),
}

impl Default for TagTracker {
    fn default() -> Self {
        Self(Tracked::new(Bound::starting_anew(MOST)))
    }
}

impl TagTracker {
    /// For an entry whose key has that turn.
    pub(crate) fn judge(&self, stamps: &[TagStamp], turn: impl Fn() -> Turn) -> Verdict {
        let mut unknown = Vec::new();
        let mut state = TagState::Current;
        self.0.look(|known| {
            for TagStamp { tag, token } in stamps {
                match known.get(tag) {
                    Some(current) => state = state.and(current.record.state_of(token, &turn)),
                    None => unknown.push(tag.clone()),
                }
            }
        });
        if unknown.is_empty() || state == TagState::Invalid {
            Verdict::Known(state)
        } else {
            Verdict::Unknown(unknown, state)
        }
    }

    /// The token of a tag, if it is known.
    pub(crate) fn get(&self, tag: &str) -> Option<Known> {
        self.0.get(tag)
    }

    /// Says that the tokens of `tags` are about to be read. To be called before the read is sent.
    pub(crate) fn begin_read(&self, tags: &[Arc<str>]) -> TagReads<'_> {
        TagReads(self.0.begin_reads(tags.iter().cloned()))
    }

    /// The token of a tag had so much longer to live `then`, if it is still this one.
    pub(crate) fn note_life(&self, tag: &str, token: TagToken, then: Instant, life: Duration) {
        self.0.update(tag, |known| {
            if known.record.token == token {
                known.until = then.checked_add(life);
            }
        });
    }

    /// The tag's token changed.
    pub(crate) fn void(&self, tag: &str) {
        self.0.void(tag);
    }

    /// Every token may have changed.
    pub(crate) fn void_all(&self) {
        self.0.void_all();
    }
}

impl TagReads<'_> {
    /// Takes what is there of the tags, in the order in which they were asked for, if they have any.
    pub(crate) fn complete(self, records: &[Option<TagRecord>]) {
        for (ticket, record) in self.0.into_iter().zip(records) {
            if let Some(record) = record {
                ticket.complete(Known { record: record.clone(), until: None });
            }
        }
    }

    /// As [`complete`](Self::complete), of the token of one tag, which had so much longer to live `then`.
    pub(crate) fn complete_living(self, record: &TagRecord, then: Instant, life: Duration) {
        for ticket in self.0 {
            ticket.complete(Known { record: record.clone(), until: then.checked_add(life) });
        }
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

    fn read<'a>(tags: &'a TagTracker, stamp: &TagStamp) -> TagReads<'a> {
        tags.begin_read(std::slice::from_ref(&stamp.tag))
    }

    #[test]
    fn a_push_while_a_read_is_under_way_wins_over_its_answer() {
        let tags = TagTracker::default();
        let old = stamp("a", b'0');
        let reading = read(&tags, &old);
        tags.void("a");
        reading.complete(&[Some(old.token.into())]);
        assert_eq!(tags.judge(&[old], || Turn(0)), Verdict::Unknown(vec!["a".into()], TagState::Current));
    }

    #[test]
    fn an_older_answer_does_not_stand_in_for_a_newer_question() {
        let tags = TagTracker::default();
        let (old, new) = (stamp("a", b'0'), stamp("a", b'1'));
        let first = read(&tags, &old);
        tags.void("a");
        let second = read(&tags, &new);
        first.complete(&[Some(old.token.into())]);
        assert_eq!(
            tags.judge(std::slice::from_ref(&old), || Turn(0)),
            Verdict::Unknown(vec!["a".into()], TagState::Current)
        );
        second.complete(&[Some(new.token.into())]);
        assert_eq!(tags.judge(&[old], || Turn(0)), Verdict::Known(TagState::Invalid));
        assert_eq!(tags.judge(&[new], || Turn(0)), Verdict::Known(TagState::Current));
    }

    #[test]
    fn how_long_a_token_lives_is_known_only_if_it_was_asked() {
        let (tags, stamp, minute) = (TagTracker::default(), stamp("a", b'0'), Duration::from_secs(60));
        read(&tags, &stamp).complete(&[Some(stamp.token.into())]);
        assert!(!tags.get("a").unwrap().lives_for(Duration::ZERO));
        read(&tags, &stamp).complete_living(&stamp.token.into(), Instant::now(), minute);
        let known = tags.get("a").unwrap();
        assert!(known.lives_for(minute / 2) && !known.lives_for(2 * minute) && !known.lives_for(Duration::MAX));
        tags.note_life("a", stamp.token, Instant::now(), 3 * minute);
        assert!(tags.get("a").unwrap().lives_for(2 * minute));
        tags.note_life("a", self::stamp("a", b'1').token, Instant::now(), 9 * minute);
        assert!(!tags.get("a").unwrap().lives_for(5 * minute), "that was another one");
    }

    #[test]
    fn the_table_is_bounded() {
        let tags = TagTracker::default();
        for i in 0..MOST + 10 {
            tags.begin_read(&[i.to_string().into()]).complete(&[Some(stamp("", b'0').token.into())]);
        }
        assert!(tags.0.len() <= MOST);
    }
}
