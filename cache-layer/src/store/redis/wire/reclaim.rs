//! Entries that their tags have made void, found and deleted on one server.
//!
//! An entry is void as soon as one of its tags has a token of another line, or none; no line comes twice, so that it stays void.
//! The tokens are read *after* the entries that carry them, on the server that has the tags. A token that was read before may be
//! older than an entry's: it can show that an entry is valid, and never that it is void.

use std::collections::{HashMap, HashSet};

use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    names::Names,
    replies::{AnyType, Bulk, Flag, exactly},
    scripts::{self, Batch},
};
use crate::{store::Swept, tag::TagToken};

/// The most tags whose tokens are remembered, and the most that are read at one time.
const REMEMBERED: usize = 50_000;
const AT_ONCE: usize = 1_000;

/// The part of a token that a soft invalidation keeps.
type Line = [u8; 15];

pub(crate) struct Reclaim {
    /// The server that has the tags.
    tags: MultiplexedConnection,
    /// The lines that were read so far.
    lines: HashMap<String, Line>,
    swept: Swept,
}

/// An entry, with the lines of the tokens that it carries.
struct Stamped<'n> {
    name: &'n [u8],
    id: Vec<u8>,
    stamps: Vec<(String, Line)>,
}

impl Reclaim {
    pub(crate) fn new(tags: MultiplexedConnection) -> Self {
        Self { tags, lines: HashMap::new(), swept: Swept::default() }
    }

    pub(crate) fn swept(&self) -> Swept {
        self.swept
    }

    /// Deletes those of the entries with these names that are void.
    pub(super) async fn step(
        &mut self,
        names: &Names,
        entries: Vec<&[u8]>,
        driver: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        self.swept.examined += entries.len() as u64;
        let mut batch = Batch::default();
        entries.iter().for_each(|name| batch.call_on(&scripts::STAMPS, name));
        let stamps: Vec<Bulk> = exactly(entries.len(), batch.run(driver).await?)?;
        let stamped: Vec<Stamped<'_>> =
            entries.iter().zip(stamps).filter_map(|(name, Bulk(bytes))| Stamped::parse(name, &bytes)).collect();
        let differs = |(tag, line): &&(String, Line)| self.lines.get(tag) != Some(line);
        let doubtful: HashSet<&str> =
            stamped.iter().flat_map(|entry| entry.stamps.iter().filter(differs)).map(|(tag, _)| tag.as_str()).collect();
        let current = read_lines(names, doubtful, &mut self.tags).await?;
        let mut batch = Batch::default();
        let mut void = 0;
        for Stamped { name, id, stamps } in &stamped {
            if stamps.iter().any(|(tag, line)| current.get(tag.as_str()).is_some_and(|now| now.as_ref() != Some(line)))
            {
                batch.reclaim(name, id);
                void += 1;
            }
        }
        if self.lines.len() > REMEMBERED {
            self.lines.clear();
        }
        let read = current.into_iter().filter_map(|(tag, line)| Some((tag.to_owned(), line?)));
        self.lines.extend(read);
        if void > 0 {
            let deleted: Vec<Flag> = exactly(void, batch.run(driver).await?)?;
            self.swept.removed += deleted.iter().filter(|Flag(deleted)| *deleted).count() as u64;
        }
        Ok(())
    }
}

/// The lines that these tags have now; `None` for a tag without a token.
async fn read_lines<'t>(
    names: &Names,
    tags: HashSet<&'t str>,
    driver: &mut MultiplexedConnection,
) -> RedisResult<HashMap<&'t str, Option<Line>>> {
    let tags: Vec<&str> = tags.into_iter().collect();
    let mut lines = HashMap::with_capacity(tags.len());
    for some in tags.chunks(AT_ONCE) {
        let mut batch = Batch::default();
        some.iter().for_each(|tag| batch.token(&names.tag(tag)));
        let tokens: Vec<AnyType> = exactly(some.len(), batch.run(driver).await?)?;
        let line = |AnyType(token): AnyType| TagToken::parse(&token?)?.line().try_into().ok();
        lines.extend(some.iter().copied().zip(tokens.into_iter().map(line)));
    }
    Ok(lines)
}

impl<'n> Stamped<'n> {
    /// Parses the reply of [`STAMPS`](scripts::STAMPS); `None` for a value that is no entry.
    fn parse(name: &'n [u8], bytes: &[u8]) -> Option<Self> {
        let (id, mut rest) = bytes.split_at_checked(16)?;
        let mut stamps = Vec::new();
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk()?;
            let (tag, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into())?;
            let (token, tail) = tail.split_at_checked(TagToken::LENGTH)?;
            stamps.push((str::from_utf8(tag).ok()?.to_owned(), TagToken::parse(token)?.line().try_into().ok()?));
            rest = tail;
        }
        Some(Self { name, id: id.to_vec(), stamps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_whole_or_not_at_all() {
        let token = *b"000000000000000a0123456789abcdei";
        let bytes = [&b"0123456789abcdef"[..], &[0, 0], &token, &[0, 2], b"ab", &token].concat();
        let read = Stamped::parse(b"name", &bytes).unwrap();
        let line = *b"0123456789abcde";
        assert_eq!(
            (&read.id[..], read.stamps),
            (&b"0123456789abcdef"[..], vec![(String::new(), line), ("ab".into(), line)])
        );
        for length in (0..bytes.len()).filter(|length| ![16, 50].contains(length)) {
            assert!(Stamped::parse(b"name", &bytes[..length]).is_none(), "{length}");
        }
    }
}
