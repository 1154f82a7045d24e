//! The tokens of tags as a connection last read them, kept up to date by the server's tracking.
//!
//! Tokens are read with tracking on, and the server pushes a name as soon as its token changes. The connection delivers pushes
//! and replies in order, and pushes are applied inline, before the next reply is handed out. So a task that has the reply to a
//! `GET` sees a table in which every invalidation that came before that `GET` has been applied.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::SetOnce;

use super::tracked::{Ticket, Tracked};
use crate::{
    ban::Bans,
    bounded::Bound,
    entry::Entry,
    key::Key,
    store::{StoreError, redis::wire::names::EVERYTHING},
    sync::Mutex,
    tag::{TagRecord, TagStamp, TagState, TagToken},
};

/// The most tags that are known at one time; above that the table starts anew, at the cost of reading tokens again.
const MOST: usize = 100_000;

#[derive(Debug)]
pub(crate) struct TagTracker {
    tags: Tracked<Arc<str>, Known>,
    /// How often the record of everything may have changed, or became known.
    changes: AtomicU64,
    /// The read of that record that is under way: with many bans, the record is long, and all look-ups need it after a change.
    shared: Mutex<Option<Arc<SharedRead>>>,
}

/// The end of a shared read: its failure, or that tasks that waited for it should look at the table.
pub(crate) type SharedRead = SetOnce<Result<(), StoreError>>;

/// Who reads the record of everything.
pub(crate) enum SharedTurn<'a> {
    /// The caller does.
    Lead(LeadingRead<'a>),
    /// Another task does. The caller looks at the table once that has ended: the reply may be older than the caller's question,
    /// and the table then knows nothing.
    Follow(Arc<SharedRead>),
}

/// The right to read for all tasks that wait. It ends when this is dropped.
pub(crate) struct LeadingRead<'a> {
    shared: &'a Mutex<Option<Arc<SharedRead>>>,
    end: Arc<SharedRead>,
}

impl LeadingRead<'_> {
    /// Ends the read with an error, which the tasks that wait get as well.
    pub(crate) fn failed(self, error: &StoreError) {
        let _ = self.end.set(Err(error.clone()));
    }
}

impl Drop for LeadingRead<'_> {
    fn drop(&mut self) {
        end_read(self.shared, &self.end);
        // An error if it has failed.
        let _ = self.end.set(Ok(()));
    }
}

/// Lets another task read, unless one does already.
fn end_read(shared: &Mutex<Option<Arc<SharedRead>>>, end: &Arc<SharedRead>) {
    let mut shared = shared.lock();
    if shared.as_ref().is_some_and(|under_way| Arc::ptr_eq(under_way, end)) {
        *shared = None;
    }
}

/// A read of tokens under way.
pub(crate) struct TagReads<'a> {
    tickets: Vec<Ticket<'a, Arc<str>, Known>>,
    /// The counter of changes, if the record of everything is read as well.
    changes: Option<&'a AtomicU64>,
}

/// The record of a tag, and until when at least the server keeps it, if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    record: TagRecord,
    until: Option<Instant>,
}

impl Known {
    pub(crate) fn token(&self) -> TagToken {
        self.record.token
    }

    pub(crate) fn record(&self) -> &TagRecord {
        &self.record
    }

    /// Whether the server keeps the token for at least `life`, unless it runs out of memory.
    pub(crate) fn lives_for(&self, life: Duration) -> bool {
        let end = Instant::now().checked_add(life);
        self.until.zip(end).is_some_and(|(until, end)| end <= until)
    }
}

/// The table's judgement of an entry's stamps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Known(Judged),
    /// These tags must be read first; by the others, the state is this.
    Unknown(Vec<Arc<str>>, Judged),
}

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) state: TagState,
    /// Whether there was a ban that the entry's load did not know of. A ban that covers the entry may have been taken off the
    /// list since the entry was found; then the entry is gone from the store.
    pub(crate) banned_since: bool,
}

impl Judged {
    pub(crate) const CURRENT: Self = Self { state: TagState::Current, banned_since: false };

    /// The state of an entry that was found after `watch` began; `None` if bans may have changed since, so that the state is not
    /// known.
    pub(crate) fn unless_in_doubt(self, tokens: &TagTracker, watch: BansWatch) -> Option<TagState> {
        let in_doubt = self.banned_since && !(watch.known && tokens.changes() == watch.changes);
        (!in_doubt).then_some(self.state)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { state: self.state.and(other.state), banned_since: self.banned_since || other.banned_since }
    }
}

/// What is known of bans at one moment: see [`TagTracker::watch_bans`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BansWatch {
    known: bool,
    changes: u64,
}

impl BansWatch {
    /// Whether the list of bans was known.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }
}

impl Default for TagTracker {
    fn default() -> Self {
        let tags = Tracked::new(Bound::starting_anew(MOST));
        Self { tags, changes: AtomicU64::new(0), shared: Mutex::default() }
    }
}

impl TagTracker {
    /// Judges an entry of `key`.
    ///
    /// Its key is compared with the patterns of bans after the table is free again: a long list takes longer than all else, and
    /// each push and each other look-up waits for the table. A ban that comes meanwhile came after this look-up began.
    pub(crate) fn judge(&self, entry: &Entry, key: &Key) -> Verdict {
        let mut unknown = Vec::new();
        let (mut judged, mut bans) = (Judged::CURRENT, None);
        self.tags.look(|known| {
            for TagStamp { tag, token } in entry.stamps() {
                match known.get(tag) {
                    Some(Known { record, .. }) => {
                        judged.state = judged.state.and(record.state_of(token, || key.id().turn()));
                        // Only the tag that every entry has lists bans.
                        bans = record.bans_since(entry.bans_known()).cloned().or(bans.take());
                    }
                    None => unknown.push(tag.clone()),
                }
            }
        });
        if let Some(bans) = bans {
            judged = judged.and(judge_by_bans(&bans, entry, key));
        }
        if unknown.is_empty() || judged.state.is_void() {
            Verdict::Known(judged)
        } else {
            Verdict::Unknown(unknown, judged)
        }
    }

    /// The tags among these that must be read first.
    pub(crate) fn unknown<'s>(&self, stamps: impl Iterator<Item = &'s TagStamp>) -> HashSet<Arc<str>> {
        self.tags.look(|known| {
            stamps.filter(|stamp| known.get(&stamp.tag).is_none()).map(|stamp| stamp.tag.clone()).collect()
        })
    }

    /// Watches bans. To be called before looking for an entry whose bans may be taken off the list before it is judged.
    pub(crate) fn watch_bans(&self) -> BansWatch {
        let changes = self.changes();
        BansWatch { known: self.tags.get(EVERYTHING).is_some(), changes }
    }

    /// Begins to read the record of everything, or to wait for another task that does.
    pub(crate) fn share_read(&self) -> SharedTurn<'_> {
        let mut shared = self.shared.lock();
        match &*shared {
            Some(end) => SharedTurn::Follow(end.clone()),
            None => {
                let end = Arc::<SharedRead>::default();
                *shared = Some(end.clone());
                SharedTurn::Lead(LeadingRead { shared: &self.shared, end })
            }
        }
    }

    /// Lets another task read: the one that does may not be polled any more, although it has not been dropped.
    pub(crate) fn give_up_on(&self, end: &Arc<SharedRead>) {
        end_read(&self.shared, end);
    }

    /// How often the record of everything may have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The token of a tag, if it is known.
    pub(crate) fn get(&self, tag: &str) -> Option<Known> {
        self.tags.get(tag)
    }

    /// Announces that the tokens of `tags` are about to be read. To be called before the read is sent.
    pub(crate) fn begin_read(&self, tags: &[Arc<str>]) -> TagReads<'_> {
        let changes = tags.iter().any(|tag| **tag == *EVERYTHING).then_some(&self.changes);
        TagReads { tickets: self.tags.begin_reads(tags.iter().cloned()), changes }
    }

    /// Notes that the token of a tag had this much longer to live at `then`, if it is still the same token.
    pub(crate) fn note_life(&self, tag: &str, token: TagToken, then: Instant, life: Duration) {
        self.tags.update(tag, |known| {
            if known.record.token == token {
                known.until = then.checked_add(life);
            }
        });
    }

    /// The tag's token changed.
    pub(crate) fn void(&self, tag: &str) {
        if tag == EVERYTHING {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        self.tags.void(tag);
    }

    /// Every token may have changed.
    pub(crate) fn void_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.tags.void_all();
    }
}

/// The state of `entry`, which is stored under `key`, by one of its tags; the tag that every entry has also gives its bans.
pub(crate) fn judge_by(record: &TagRecord, stamp: &TagStamp, entry: &Entry, key: &Key) -> Judged {
    let judged = Judged { state: record.state_of(&stamp.token, || key.id().turn()), banned_since: false };
    match record.bans_since(entry.bans_known()) {
        None => judged,
        Some(bans) => judged.and(judge_by_bans(bans, entry, key)),
    }
}

/// The state of `entry` by these bans, of which some are younger than those that its load knew of.
fn judge_by_bans(bans: &Bans, entry: &Entry, key: &Key) -> Judged {
    let state = bans.state_of(entry.bans_known(), key.canonical(), || key.id().turn());
    Judged { state, banned_since: true }
}

impl TagReads<'_> {
    /// Counts before any task can judge by the record: while it was unknown, no task was told of bans that came and went.
    fn count(&self) {
        if let Some(changes) = self.changes {
            changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Takes the records of the tags, in the order in which they were asked for; `None` for a tag without one.
    pub(crate) fn complete(self, records: &[Option<TagRecord>]) {
        self.count();
        for (ticket, record) in self.tickets.into_iter().zip(records) {
            if let Some(record) = record {
                ticket.complete(Known { record: record.clone(), until: None });
            }
        }
    }

    /// As [`complete`](Self::complete), for the token of one tag, which had this much longer to live at `then`.
    pub(crate) fn complete_living(self, record: &TagRecord, then: Instant, life: Duration) {
        self.count();
        for ticket in self.tickets {
            ticket.complete(Known { record: record.clone(), until: then.checked_add(life) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize},
        thread,
    };

    use bytes::Bytes;

    use super::*;
    use crate::entry::{Deadlines, EntryId};

    fn stamp(tag: &str, last: u8) -> TagStamp {
        let mut token = *b"000000000000000a0123456789abcdei";
        token[30] = last;
        TagStamp { tag: tag.into(), token: TagToken(token) }
    }

    fn judge(tags: &TagTracker, stamps: &[TagStamp]) -> Verdict {
        let key = Key::new(["k"]);
        let entry = Entry::new(EntryId::random(), &key, Deadlines::fresh_until(0), Bytes::new(), Bytes::new());
        tags.judge(&entry.stamped(stamps), &key)
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
        assert_eq!(judge(&tags, &[old]), Verdict::Unknown(vec!["a".into()], Judged::CURRENT));
    }

    #[test]
    fn an_older_answer_does_not_stand_in_for_a_newer_question() {
        let tags = TagTracker::default();
        let (old, new) = (stamp("a", b'0'), stamp("a", b'1'));
        let first = read(&tags, &old);
        tags.void("a");
        let second = read(&tags, &new);
        first.complete(&[Some(old.token.into())]);
        assert_eq!(judge(&tags, std::slice::from_ref(&old)), Verdict::Unknown(vec!["a".into()], Judged::CURRENT));
        second.complete(&[Some(new.token.into())]);
        assert_eq!(judge(&tags, &[old]), Verdict::Known(Judged { state: TagState::Invalid, banned_since: false }));
        assert_eq!(judge(&tags, &[new]), Verdict::Known(Judged::CURRENT));
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

    /// The record of the tag that every entry has, with this many bans of one pattern.
    fn banning(stamp: &TagStamp, count: u64, pattern: &str) -> TagRecord {
        let ban = |at| format!("{at:016x}h{:08x}{:04x}{pattern}", 0, pattern.len());
        let bans: String = (1..=count).map(ban).collect();
        let token = String::from_utf8_lossy(&stamp.token.0);
        TagRecord::parse(format!("{token}|{count:016x}{bans}").as_bytes()).expect("a record")
    }

    fn entry_of(key: &Key, stamp: &TagStamp) -> Entry {
        let entry = Entry::new(EntryId::random(), key, Deadlines::fresh_until(0), Bytes::new(), Bytes::new());
        entry.stamped(std::slice::from_ref(stamp))
    }

    #[test]
    fn a_look_up_that_begins_after_a_ban_obeys_it() {
        let (key, stamp) = (Key::new(["k"]), stamp(EVERYTHING, b'0'));
        let entry = entry_of(&key, &stamp);
        for _ in 0..500 {
            let (tags, is_said) = (TagTracker::default(), AtomicBool::new(false));
            read(&tags, &stamp).complete(&[Some(stamp.token.into())]);
            thread::scope(|scope| {
                scope.spawn(|| {
                    tags.void(EVERYTHING);
                    read(&tags, &stamp).complete(&[Some(banning(&stamp, 1, "k"))]);
                    is_said.store(true, Ordering::SeqCst);
                });
                loop {
                    let (was_said, verdict) = (is_said.load(Ordering::SeqCst), tags.judge(&entry, &key));
                    let banned = Verdict::Known(Judged { state: TagState::Banned, banned_since: true });
                    if was_said {
                        assert_eq!(verdict, banned);
                        break;
                    }
                    let open =
                        [Verdict::Known(Judged::CURRENT), Verdict::Unknown(vec![EVERYTHING.into()], Judged::CURRENT)];
                    assert!(verdict == banned || open.contains(&verdict), "{verdict:?}");
                }
            });
        }
    }

    #[test]
    fn the_table_is_free_while_patterns_are_compared() {
        const PUSHES: usize = 100;
        let (key, stamp) = (Key::new(["a".repeat(3_000)]), stamp(EVERYTHING, b'0'));
        let (entry, slow) = (entry_of(&key, &stamp), format!("*{}b", "a".repeat(900)));
        let tags = TagTracker::default();
        read(&tags, &stamp).complete(&[Some(banning(&stamp, 4, &slow))]);
        let (judged, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    assert_eq!(
                        tags.judge(&entry, &key),
                        Verdict::Known(Judged { banned_since: true, ..Judged::CURRENT })
                    );
                    judged.fetch_add(1, Ordering::SeqCst);
                }
            });
            while judged.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let before = judged.load(Ordering::SeqCst);
            (0..PUSHES).for_each(|_| tags.void("another"));
            let meanwhile = judged.load(Ordering::SeqCst) - before;
            is_over.store(true, Ordering::SeqCst);
            // Otherwise each push would wait for a look-up.
            assert!(meanwhile < PUSHES / 2, "{meanwhile}");
        });
    }

    #[test]
    fn one_reads_for_all_and_the_next_one_if_that_ends_without_an_answer() {
        let tags = TagTracker::default();
        let SharedTurn::Lead(first) = tags.share_read() else { panic!("nobody reads yet") };
        let SharedTurn::Follow(end) = tags.share_read() else { panic!("two read") };
        assert_eq!(end.get(), None);
        drop(first);
        assert_eq!(end.get(), Some(&Ok(())), "those who wait look at the table");
        let SharedTurn::Lead(second) = tags.share_read() else { panic!("nobody reads any more") };
        let SharedTurn::Follow(end) = tags.share_read() else { panic!("two read") };
        second.failed(&StoreError::TimedOut);
        assert_eq!(end.get(), Some(&Err(StoreError::TimedOut)));
        assert!(matches!(tags.share_read(), SharedTurn::Lead(_)));
    }

    #[test]
    fn the_table_is_bounded() {
        let tags = TagTracker::default();
        for i in 0..MOST + 10 {
            tags.begin_read(&[i.to_string().into()]).complete(&[Some(stamp("", b'0').token.into())]);
        }
        assert!(tags.tags.len() <= MOST);
    }
}
