//! How long the token of a tag is kept.

use std::time::Duration;

use crate::{
    clock::millis,
    store::redis::wire::names::{EVERYTHING, TOKEN_LIFE},
};

/// How much longer a token lives than its entries, as a fraction, and at least: so that the token is not the first to expire, and
/// still exists when a popular entry is loaded again.
const SPARE_PART: u64 = 4;
const SPARE: Duration = Duration::from_secs(2);
/// How long the token of an invalidated tag is kept, even if no entry carries it. It distinguishes loads that were under way from
/// loads that began since; once it is gone, loads of the former kind that end so late are not stored.
pub(crate) const INVALIDATED: Duration = Duration::from_secs(60);

/// How long a tag's token is kept, for entries with `longest` milliseconds left: the minimum life, the life of a new token, and
/// the life to which a shorter one is extended.
///
/// A token lives as long as the entries that carry it, since requests of clients can create any number of tags. Without a token
/// an entry is void, so that a token that is lost too early costs a load. The token that every entry carries is only one, and is
/// kept for long.
pub(crate) fn lives(tag: &str, longest: u64) -> [String; 3] {
    let spare = (longest / SPARE_PART).max(millis(SPARE));
    let [least, made, extended] = if tag == EVERYTHING {
        let life = longest.saturating_mul(2).max(millis(TOKEN_LIFE));
        [life / 2, life, life]
    } else {
        [longest, longest.saturating_add(spare), longest.saturating_mul(2).saturating_add(spare)]
    };
    [least, made, extended].map(|life| life.to_string())
}

/// As [`lives`], for a token that an invalidation writes.
pub(crate) fn life_invalidated(tag: &str) -> u64 {
    millis(if tag == EVERYTHING { TOKEN_LIFE } else { INVALIDATED })
}
