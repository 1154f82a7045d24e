//! A payload that is still arriving: one writer appends to it, and readers read it as it grows, each at its own pace.
//!
//! The end of a payload is always explicit. If the writer is dropped before the end, the payload is incomplete, and no reader
//! may take it for complete.
//!
//! All of the payload is kept until it is complete. A payload that [outgrows](BodyWriter::outgrow) the limit continues for the
//! present readers only: a piece is dropped once all of them have read it, and the writer waits for the slowest reader.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::poll_fn,
    ops::Range,
    sync::{Arc, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::sync::Mutex;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

/// How long a reader may make no progress while the writer waits for it.
const STALLED: Duration = Duration::from_secs(30);
/// The rate, in bytes a second, that a reader is assumed to have for bytes that it still has to read elsewhere.
const SLOWEST: u64 = 16 * 1024;
/// The least distance between the writer and the slowest reader at which the writer waits.
const LEAST_WINDOW: u64 = 64 * 1024;

/// The payload is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete;

/// The writer's end. If it is dropped before [`end`](Self::end), the payload is incomplete.
#[derive(Debug)]
pub(crate) struct BodyWriter(GrowingBody);

/// The readers' handle on a payload. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GrowingBody {
    chunks: Arc<Mutex<Chunks>>,
    /// The length of the whole payload, if that is known.
    length: Option<u64>,
}

#[derive(Default)]
struct Chunks {
    pieces: VecDeque<Bytes>,
    /// How many pieces were dropped, and how many bytes they had.
    gone: usize,
    before: u64,
    written: u64,
    /// The most bytes between the writer and the slowest reader; set once no further reader may begin.
    window: Option<u64>,
    end: Option<Result<End, Incomplete>>,
    /// The readers, by number. A reader that is missing here was disconnected because it stalled.
    readers: HashMap<u64, Position>,
    numbers: u64,
    /// The waker of the writer, while it waits for its readers.
    writer: Option<Waker>,
}

/// How a complete payload ended.
enum End {
    /// With a copy in one piece, which replaces the pieces.
    Whole(Bytes),
    /// With the last of its pieces.
    Streamed,
}

/// How far a reader is.
struct Position {
    read: u64,
    /// When it reached this position.
    since: Instant,
    /// The reader's waker, if it has read everything so far.
    waiting: Option<Waker>,
}

/// One reader's position.
pub(crate) struct BodyReader {
    body: GrowingBody,
    number: u64,
    /// The bytes that are still to be read; everything that arrives, if its end is `u64::MAX`.
    part: Range<u64>,
    /// The next piece, and the number of bytes before it.
    piece: usize,
    before: u64,
}

impl BodyWriter {
    /// The writer of a payload that will have this length, if it is known.
    pub(crate) fn new(length: Option<u64>) -> Self {
        Self(GrowingBody { chunks: Arc::default(), length })
    }

    pub(crate) fn body(&self) -> GrowingBody {
        self.0.clone()
    }

    /// Appends data. If there is more than was announced, the payload counts as incomplete.
    pub(crate) fn push(&self, data: Bytes) {
        let length = self.0.length.unwrap_or(u64::MAX);
        self.0.change(|chunks| {
            chunks.falls_behind_from_now();
            chunks.written += data.len() as u64;
            if chunks.written > length {
                chunks.finish(Err(Incomplete));
            } else if chunks.end.is_none() {
                chunks.pieces.push_back(data);
            }
        });
    }

    /// Ends a complete payload; `whole` is a copy in one piece, so that a slow reader does not keep the pieces in memory.
    pub(crate) fn end(self, whole: Bytes) {
        let matches = self.0.length.is_none_or(|length| whole.len() as u64 == length);
        self.0.change(|chunks| chunks.finish(if matches { Ok(End::Whole(whole)) } else { Err(Incomplete) }));
    }

    /// The payload is longer than the `window` bytes that may be kept: from now on no further reader may begin, and the present
    /// readers get the rest, as long as the writer waits for [room](Self::has_room). Returns one more reader, which gets the
    /// part that was written so far from elsewhere; `None` if there is no other reader.
    pub(crate) fn outgrow(&self, window: u64) -> Option<BodyReader> {
        let mut chunks = self.0.chunks();
        chunks.window = Some(window.max(LEAST_WINDOW));
        if chunks.readers.is_empty() || chunks.end.is_some() {
            return None;
        }
        let (read, now) = (chunks.written, Instant::now());
        chunks.readers.values_mut().for_each(|position| position.since = now);
        let number = chunks.take_position(read, now + Duration::from_secs(read / SLOWEST).min(STALLED));
        let (piece, before) = (chunks.gone + chunks.pieces.len(), read);
        chunks.let_go();
        drop(chunks);
        Some(BodyReader { body: self.0.clone(), number, part: read..u64::MAX, piece, before })
    }

    /// Waits until the slowest reader is near enough, and disconnects a reader that stalls. Returns `false` if there is no
    /// reader any more.
    pub(crate) async fn has_room(&self) -> bool {
        loop {
            let room = poll_fn(|cx| self.0.chunks().poll_room(cx));
            match timeout(STALLED / 4, room).await {
                Ok(is_read) => return is_read,
                Err(_) => self.0.chunks().let_stalled_go(),
            }
        }
    }

    /// Returns once there is no reader any more.
    pub(crate) async fn deserted(&self) {
        poll_fn(|cx| {
            let mut chunks = self.0.chunks();
            if chunks.readers.is_empty() {
                return Poll::Ready(());
            }
            chunks.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends a complete payload, of which some pieces were dropped.
    pub(crate) fn end_streamed(self) {
        self.0.change(|chunks| chunks.finish(Ok(End::Streamed)));
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        self.0.change(|chunks| chunks.finish(Err(Incomplete)));
    }
}

impl Chunks {
    /// Sets the end; the first call counts.
    fn finish(&mut self, end: Result<End, Incomplete>) {
        if self.end.is_none() {
            if !matches!(end, Ok(End::Streamed)) {
                self.pieces = VecDeque::new();
            }
            self.end = Some(end);
        }
    }

    /// Restarts the clock of the readers that have read everything so far: they had nothing to do.
    fn falls_behind_from_now(&mut self) {
        if self.window.is_none() {
            return;
        }
        let (now, written) = (Instant::now(), self.written);
        for position in self.readers.values_mut().filter(|position| position.read == written) {
            position.since = position.since.max(now);
        }
    }

    fn take_position(&mut self, read: u64, since: Instant) -> u64 {
        self.numbers += 1;
        self.readers.insert(self.numbers, Position { read, since, waiting: None });
        self.numbers
    }

    /// Records a reader's position. Pieces that all readers have read are dropped, if not all of the payload is kept.
    fn came_to(&mut self, number: u64, read: u64) {
        // The time is only needed if the writer waits.
        let Some(position) = self.readers.get_mut(&number) else { return };
        position.read = read;
        if self.window.is_some() {
            position.since = position.since.max(Instant::now());
            self.let_go();
            self.wake_writer();
        }
    }

    fn slowest(&self) -> Option<u64> {
        self.readers.values().map(|position| position.read).min()
    }

    /// Drops the pieces that all readers have read.
    fn let_go(&mut self) {
        let Some(slowest) = self.slowest() else { return };
        while let Some(first) = self.pieces.front()
            && self.before + first.len() as u64 <= slowest
        {
            self.before += first.len() as u64;
            self.gone += 1;
            self.pieces.pop_front();
        }
    }

    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let Some(slowest) = self.slowest() else { return Poll::Ready(false) };
        if self.window.is_none_or(|window| self.written - slowest < window) {
            return Poll::Ready(true);
        }
        self.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Disconnects stalled readers, if another reader waits for data that they hold up.
    fn let_stalled_go(&mut self) {
        if !self.readers.values().any(|position| position.read == self.written) {
            return;
        }
        let (now, written) = (Instant::now(), self.written);
        let stalled =
            |position: &Position| position.read < written && now.saturating_duration_since(position.since) >= STALLED;
        self.readers.retain(|_, position| {
            let goes = stalled(position);
            if goes && let Some(waiting) = position.waiting.take() {
                waiting.wake();
            }
            !goes
        });
        self.let_go();
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl GrowingBody {
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock()
    }

    fn change(&self, change: impl FnOnce(&mut Chunks)) {
        let waiting: Vec<Waker> = {
            let mut chunks = self.chunks();
            change(&mut chunks);
            chunks.readers.values_mut().filter_map(|position| position.waiting.take()).collect()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The length of the whole payload, if that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Whether there is a reader.
    pub(crate) fn is_read(&self) -> bool {
        !self.chunks().readers.is_empty()
    }

    /// Reads `part` of the payload, which lies within its length, if that is known.
    pub(crate) fn read(&self, part: Range<u64>) -> BodyReader {
        let number = self.chunks().take_position(part.start, Instant::now());
        BodyReader { body: self.clone(), number, part, piece: 0, before: 0 }
    }

    /// Reads the whole payload; `None` if its beginning may have been dropped, or it is incomplete.
    pub(crate) fn read_all(&self) -> Option<BodyReader> {
        let mut chunks = self.chunks();
        if chunks.window.is_some() || matches!(chunks.end, Some(Err(_))) {
            return None;
        }
        let number = chunks.take_position(0, Instant::now());
        drop(chunks);
        Some(BodyReader { body: self.clone(), number, part: 0..self.length.unwrap_or(u64::MAX), piece: 0, before: 0 })
    }
}

impl BodyReader {
    /// The number of bytes that are still to come, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.body.length.map(|_| self.part.end - self.part.start)
    }

    /// The next bytes; `None` at the end. Only the writer's explicit end is the end, even if the announced length has been read.
    pub(crate) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Incomplete>>> {
        let mut chunks = self.body.chunks.lock();
        let chunks = &mut *chunks;
        match &chunks.end {
            Some(Err(broken_off)) => return Poll::Ready(Some(Err(*broken_off))),
            Some(Ok(_)) if self.part.is_empty() => return Poll::Ready(None),
            Some(Ok(End::Whole(whole))) => {
                // Within the payload, which is in memory: these fit.
                let upto = self.part.end.min(whole.len() as u64);
                let rest = whole.slice(self.part.start as usize..upto as usize);
                self.part.start = self.part.end;
                chunks.came_to(self.number, upto);
                return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
            }
            None if self.part.is_empty() && self.body.length.is_some_and(|length| self.part.end < length) => {
                return Poll::Ready(None);
            }
            Some(Ok(End::Streamed)) | None => {}
        }
        if !chunks.readers.contains_key(&self.number) {
            return Poll::Ready(Some(Err(Incomplete)));
        }
        if self.piece < chunks.gone {
            (self.piece, self.before) = (chunks.gone, chunks.before);
        }
        while let Some(piece) = chunks.pieces.get(self.piece - chunks.gone).filter(|_| !self.part.is_empty()) {
            let (begin, end) = (self.before, self.before + piece.len() as u64);
            if self.part.start < end {
                let upto = self.part.end.min(end);
                let data = piece.slice((self.part.start - begin) as usize..(upto - begin) as usize);
                self.part.start = upto;
                chunks.came_to(self.number, upto);
                return Poll::Ready(Some(Ok(data)));
            }
            self.piece += 1;
            self.before = end;
        }
        if chunks.end.is_some() {
            return Poll::Ready(None);
        }
        if let Some(position) = chunks.readers.get_mut(&self.number) {
            position.waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut chunks = self.body.chunks();
        chunks.readers.remove(&self.number);
        if chunks.window.is_some() {
            chunks.let_go();
            chunks.wake_writer();
        }
    }
}

impl fmt::Debug for GrowingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrowingBody").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    async fn next(reader: &mut BodyReader) -> Option<Result<Bytes, Incomplete>> {
        poll_fn(|cx| reader.poll_next(cx)).await
    }

    async fn read_all(mut reader: BodyReader) -> Result<Vec<u8>, Incomplete> {
        let mut all = Vec::new();
        while let Some(data) = next(&mut reader).await {
            all.extend_from_slice(&data?);
        }
        assert!(reader.left().is_none_or(|left| left == 0));
        Ok(all)
    }

    fn is_pending(reader: &mut BodyReader) -> bool {
        reader.poll_next(&Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn what_came_in_is_read_before_the_rest_is_there() {
        let writer = BodyWriter::new(Some(6));
        let mut reader = writer.body().read(0..6);
        assert!(is_pending(&mut reader));
        writer.push("one".into());
        assert_eq!(next(&mut reader).await, Some(Ok("one".into())));
        assert!(is_pending(&mut reader));
        writer.push("two".into());
        assert_eq!(next(&mut reader).await, Some(Ok("two".into())));
        assert!(is_pending(&mut reader), "the last byte is not the end");
        writer.end("onetwo".into());
        assert_eq!(next(&mut reader).await, None);
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_is_no_end() {
        for pieces in [0, 1, 2] {
            let writer = BodyWriter::new(Some(6));
            let reader = writer.body().read(0..6);
            ["one", "two"].iter().take(pieces).for_each(|piece| writer.push((*piece).into()));
            drop(writer);
            assert_eq!(read_all(reader).await, Err(Incomplete), "after {pieces} pieces");
        }
    }

    #[tokio::test]
    async fn another_length_than_was_announced_is_no_end() {
        for length in [2, 4] {
            let writer = BodyWriter::new(Some(length));
            let reader = writer.body().read(0..length);
            writer.push("one".into());
            writer.end("one".into());
            assert_eq!(read_all(reader).await, Err(Incomplete), "{length} announced");
        }
    }

    #[tokio::test]
    async fn a_part_ends_where_it_ends() {
        let writer = BodyWriter::new(Some(6));
        let mut reader = writer.body().read(1..4);
        writer.push("one".into());
        assert_eq!(next(&mut reader).await, Some(Ok("ne".into())));
        writer.push("two".into());
        assert_eq!(next(&mut reader).await, Some(Ok("t".into())));
        assert_eq!(next(&mut reader).await, None);
    }

    #[test]
    fn a_reader_that_leaves_is_not_remembered() {
        let writer = BodyWriter::new(Some(3));
        let mut reader = writer.body().read(0..3);
        assert!(is_pending(&mut reader));
        drop(reader);
        assert!(writer.body().chunks().readers.is_empty());
    }

    #[test]
    fn the_pieces_are_let_go_once_the_whole_is_there() {
        let writer = BodyWriter::new(Some(3));
        let body = writer.body();
        writer.push("one".into());
        writer.end("one".into());
        assert!(body.chunks().pieces.is_empty());
    }

    fn polled(future: impl Future<Output = bool>) -> Poll<bool> {
        std::pin::pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// As much as lies between the writer and the slowest reader at most.
    fn window() -> Bytes {
        vec![b'w'; LEAST_WINDOW as usize].into()
    }

    #[tokio::test]
    async fn of_an_unknown_length_is_read_to_where_its_writer_says_it_ends() {
        let writer = BodyWriter::new(None);
        let mut early = writer.body().read_all().unwrap();
        assert_eq!((early.left(), is_pending(&mut early)), (None, true));
        writer.push("one".into());
        assert_eq!(next(&mut early).await, Some(Ok("one".into())));
        assert!(is_pending(&mut early));
        let late = writer.body().read_all().unwrap();
        writer.push("two".into());
        writer.end("onetwo".into());
        assert_eq!((read_all(early).await, read_all(late).await), (Ok(b"two".into()), Ok(b"onetwo".into())));
    }

    #[tokio::test]
    async fn what_outgrows_goes_on_for_those_who_read_it_and_for_nobody_who_comes_later() {
        let writer = BodyWriter::new(None);
        let first = writer.body().read_all().unwrap();
        writer.push("one".into());
        let second = writer.outgrow(0).unwrap();
        assert!(writer.body().read_all().is_none(), "its beginning may be gone");
        writer.push("two".into());
        writer.end_streamed();
        assert_eq!((read_all(first).await, read_all(second).await), (Ok(b"onetwo".into()), Ok(b"two".into())));
        let unread = BodyWriter::new(None);
        unread.push("one".into());
        assert!(unread.outgrow(0).is_none());
    }

    #[tokio::test]
    async fn what_outgrows_is_let_go_as_it_is_read_and_waits_for_the_slowest() {
        let writer = BodyWriter::new(None);
        let mut slow = writer.body().read_all().unwrap();
        writer.push(window());
        let mut quick = writer.outgrow(0).unwrap();
        assert_eq!(polled(writer.has_room()), Poll::Pending);
        assert!(is_pending(&mut quick), "it has had this");
        assert_eq!(next(&mut slow).await, Some(Ok(window())));
        assert_eq!((polled(writer.has_room()), writer.body().chunks().pieces.len()), (Poll::Ready(true), 0));
        writer.push(window());
        drop(slow);
        assert_eq!(next(&mut quick).await, Some(Ok(window())));
        assert_eq!((polled(writer.has_room()), writer.body().chunks().pieces.len()), (Poll::Ready(true), 0));
        drop(quick);
        assert_eq!(polled(writer.has_room()), Poll::Ready(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stands_still_is_let_go_of_and_told_so() {
        let writer = BodyWriter::new(None);
        let mut still = writer.body().read_all().unwrap();
        writer.push(window());
        let mut quick = writer.outgrow(0).unwrap();
        let began = Instant::now();
        assert!(writer.has_room().await);
        assert!((STALLED..2 * STALLED).contains(&began.elapsed()));
        assert_eq!(next(&mut still).await, Some(Err(Incomplete)));
        writer.push("on".into());
        assert_eq!(next(&mut quick).await, Some(Ok("on".into())));
    }

    proptest! {
        #[test]
        fn all_read_the_same_however_it_comes_in(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..20),
            polls in prop::collection::vec(0..4_usize, 0..20),
            ends in any::<[usize; 2]>(),
            announced in any::<bool>(),
        ) {
            let whole = pieces.concat();
            let mut ends = ends.map(|end| (end % (whole.len() + 1)) as u64);
            ends.sort_unstable();
            let writer = BodyWriter::new(announced.then_some(whole.len() as u64));
            let parts = [0..whole.len() as u64, ends[0]..ends[1]];
            let mut readers: Vec<_> = parts
                .iter()
                .map(|part| (part.start as usize..part.end as usize, writer.body().read(part.clone()), Vec::new()))
                .collect();
            let mut read = |times: usize| {
                for (_, reader, got) in &mut readers {
                    for _ in 0..times {
                        if let Poll::Ready(Some(data)) = reader.poll_next(&Context::from_waker(Waker::noop())) {
                            got.extend_from_slice(&data.unwrap());
                        }
                    }
                }
            };
            let mut polls = polls.into_iter();
            for piece in pieces {
                writer.push(piece.into());
                read(polls.next().unwrap_or(0));
            }
            writer.end(whole.clone().into());
            read(2);
            for (part, mut reader, got) in readers {
                prop_assert_eq!(&whole[part], &got[..]);
                prop_assert!(matches!(reader.poll_next(&Context::from_waker(Waker::noop())), Poll::Ready(None)));
            }
        }
    }
}
