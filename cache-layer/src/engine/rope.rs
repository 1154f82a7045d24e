//! A payload on its way: one writes it, others read it as it grows, each at its own pace.
//!
//! How it ends is always said. A writer that is gone without a word has left a part behind, and nobody may take that for
//! the whole.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

/// The payload did not come in whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenOff;

/// The writer's end. Dropped before [`end`](Self::end), the payload broke off.
#[derive(Debug)]
pub(crate) struct RopeWriter(Rope);

/// What there is to read of a payload of a known length. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rope {
    strand: Arc<Mutex<Strand>>,
    length: u64,
}

#[derive(Default)]
struct Strand {
    pieces: Vec<Bytes>,
    written: u64,
    /// How it ended: the payload in one piece, which takes the place of `pieces`.
    end: Option<Result<Bytes, BrokenOff>>,
    /// Of readers that have read all there is, by their numbers.
    waiting: HashMap<u64, Waker>,
    readers: u64,
}

/// One reader's place.
pub(crate) struct Reader {
    rope: Rope,
    number: u64,
    /// What is still to be read.
    part: Range<u64>,
    /// The piece to go on with, and how many bytes come before it.
    piece: usize,
    before: u64,
}

impl RopeWriter {
    /// Of a payload that will be so long.
    pub(crate) fn new(length: u64) -> Self {
        Self(Rope { strand: Arc::default(), length })
    }

    pub(crate) fn rope(&self) -> Rope {
        self.0.clone()
    }

    /// Appends what came in. More than was announced is no payload at all.
    pub(crate) fn push(&self, data: Bytes) {
        let length = self.0.length;
        self.0.change(|strand| {
            strand.written += data.len() as u64;
            if strand.written > length {
                strand.finish(Err(BrokenOff));
            } else if strand.end.is_none() {
                strand.pieces.push(data);
            }
        });
    }

    /// All of it was pushed; this is a copy in one piece, which nobody's slow reading makes any larger.
    pub(crate) fn end(self, whole: Bytes) {
        let matches = whole.len() as u64 == self.0.length;
        self.0.change(|strand| strand.finish(if matches { Ok(whole) } else { Err(BrokenOff) }));
    }
}

impl Drop for RopeWriter {
    fn drop(&mut self) {
        self.0.change(|strand| strand.finish(Err(BrokenOff)));
    }
}

impl Strand {
    /// The first word counts.
    fn finish(&mut self, end: Result<Bytes, BrokenOff>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.pieces = Vec::new();
        }
    }
}

impl Rope {
    fn strand(&self) -> MutexGuard<'_, Strand> {
        self.strand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Strand)) {
        let waiting = {
            let mut strand = self.strand();
            change(&mut strand);
            std::mem::take(&mut strand.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Bytes of the whole payload.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads `part` of it, which lies within its length.
    pub(crate) fn read(&self, part: Range<u64>) -> Reader {
        let mut strand = self.strand();
        strand.readers += 1;
        Reader { rope: self.clone(), number: strand.readers, part, piece: 0, before: 0 }
    }
}

impl Reader {
    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.part.end - self.part.start
    }

    /// The next bytes; `None` at the end. The last byte of a payload is not its end: only the writer's word is.
    pub(crate) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let mut strand = self.rope.strand.lock().unwrap_or_else(PoisonError::into_inner);
        match &strand.end {
            Some(Err(broken_off)) => return Poll::Ready(Some(Err(*broken_off))),
            Some(Ok(_)) if self.part.is_empty() => return Poll::Ready(None),
            Some(Ok(whole)) => {
                // Within the payload, which is in memory: these fit.
                let rest = whole.slice(self.part.start as usize..self.part.end as usize);
                self.part.start = self.part.end;
                return Poll::Ready(Some(Ok(rest)));
            }
            None if self.part.is_empty() && self.part.end < self.rope.length => return Poll::Ready(None),
            None => {}
        }
        while let Some(piece) = strand.pieces.get(self.piece).filter(|_| !self.part.is_empty()) {
            let (begin, end) = (self.before, self.before + piece.len() as u64);
            if self.part.start < end {
                let upto = self.part.end.min(end);
                let data = piece.slice((self.part.start - begin) as usize..(upto - begin) as usize);
                self.part.start = upto;
                return Poll::Ready(Some(Ok(data)));
            }
            self.piece += 1;
            self.before = end;
        }
        strand.waiting.insert(self.number, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.rope.strand().waiting.remove(&self.number);
    }
}

impl fmt::Debug for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rope").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    async fn next(reader: &mut Reader) -> Option<Result<Bytes, BrokenOff>> {
        poll_fn(|cx| reader.poll_next(cx)).await
    }

    async fn read_all(mut reader: Reader) -> Result<Vec<u8>, BrokenOff> {
        let mut all = Vec::new();
        while let Some(data) = next(&mut reader).await {
            all.extend_from_slice(&data?);
        }
        assert_eq!(reader.left(), 0);
        Ok(all)
    }

    fn is_pending(reader: &mut Reader) -> bool {
        reader.poll_next(&Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn what_came_in_is_read_before_the_rest_is_there() {
        let writer = RopeWriter::new(6);
        let mut reader = writer.rope().read(0..6);
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
            let writer = RopeWriter::new(6);
            let reader = writer.rope().read(0..6);
            ["one", "two"].iter().take(pieces).for_each(|piece| writer.push((*piece).into()));
            drop(writer);
            assert_eq!(read_all(reader).await, Err(BrokenOff), "after {pieces} pieces");
        }
    }

    #[tokio::test]
    async fn another_length_than_was_announced_is_no_end() {
        for length in [2, 4] {
            let writer = RopeWriter::new(length);
            let reader = writer.rope().read(0..length);
            writer.push("one".into());
            writer.end("one".into());
            assert_eq!(read_all(reader).await, Err(BrokenOff), "{length} announced");
        }
    }

    #[tokio::test]
    async fn a_part_ends_where_it_ends() {
        let writer = RopeWriter::new(6);
        let mut reader = writer.rope().read(1..4);
        writer.push("one".into());
        assert_eq!(next(&mut reader).await, Some(Ok("ne".into())));
        writer.push("two".into());
        assert_eq!(next(&mut reader).await, Some(Ok("t".into())));
        assert_eq!(next(&mut reader).await, None);
    }

    #[test]
    fn a_reader_that_leaves_is_not_remembered() {
        let writer = RopeWriter::new(3);
        let mut reader = writer.rope().read(0..3);
        assert!(is_pending(&mut reader));
        drop(reader);
        assert!(writer.rope().strand().waiting.is_empty());
    }

    #[test]
    fn the_pieces_are_let_go_once_the_whole_is_there() {
        let writer = RopeWriter::new(3);
        let rope = writer.rope();
        writer.push("one".into());
        writer.end("one".into());
        assert!(rope.strand().pieces.is_empty());
    }

    proptest! {
        #[test]
        fn all_read_the_same_however_it_comes_in(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..20),
            polls in prop::collection::vec(0..4_usize, 0..20),
            ends in any::<[usize; 2]>(),
        ) {
            let whole = pieces.concat();
            let mut ends = ends.map(|end| (end % (whole.len() + 1)) as u64);
            ends.sort_unstable();
            let writer = RopeWriter::new(whole.len() as u64);
            let parts = [0..whole.len() as u64, ends[0]..ends[1]];
            let mut readers: Vec<_> = parts
                .iter()
                .map(|part| (part.start as usize..part.end as usize, writer.rope().read(part.clone()), Vec::new()))
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
