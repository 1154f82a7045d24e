//! For how long the token of a tag is kept.

use std::time::Duration;

use crate::{
    clock::millis,
    store::redis::wire::names::{EVERYTHING, TOKEN_LIFE},
};

/// How much longer a token lives than what carries it, and at least: so that it is not the first to go, and is still there
/// for whatever is loaded in place of an entry that is asked for often.
const SPARE_PART: u64 = 4;
const SPARE: Duration = Duration::from_secs(2);
/// How long the token of a tag that was invalidated is kept, whatever comes to carry it. It tells loads that were under way
/// apart from those that began since; once it is gone, those of the former that end so late are not stored.
pub(crate) const INVALIDATED: Duration = Duration::from_secs(60);

/// For how long a tag's token is kept that entries with so many milliseconds left are to carry: at least for so long, for so
/// long if it is made, and for so long if it has to be extended.
///
/// A token lives as long as what carries it: tags are named by what clients ask for. Without one an entry is void, so that
/// what is lost too early costs a load. The one that every entry carries is kept for long, being one.
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

/// As [`lives`], of a token that an invalidation writes.
pub(crate) fn life_invalidated(tag: &str) -> u64 {
    millis(if tag == EVERYTHING { TOKEN_LIFE } else { INVALIDATED })
}
