//! The owner of a private cache (RFC 9111, section 1), and the credentials that distinguish the owner's requests.

use std::fmt;

use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE},
};
use sha2::{Digest as _, Sha256};

use crate::{
    hex,
    semantics::{cookies::CookiePolicy, list::has_any},
};

/// A part of a key that only private caches use.
const PRIVATE: &str = "#private";

/// The owner of a private cache.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Owner {
    name: String,
    tag: String,
    /// Request fields with credentials.
    credentials: Vec<HeaderName>,
}

impl Owner {
    pub(super) fn new(name: String) -> Self {
        let tag = format!("owner {name}");
        Self { name, tag, credentials: vec![AUTHORIZATION, COOKIE] }
    }

    /// Adds request fields with credentials.
    pub(super) fn add_credentials(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        self.credentials.extend(names);
    }

    pub(super) fn credentials(&self) -> &[HeaderName] {
        &self.credentials
    }

    /// The tag of all the owner's entries.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// The beginning of all keys, with the layer's own namespace.
    pub(super) fn namespace(&self, of_layer: &str) -> String {
        // The length makes each pair of a name and a namespace unique.
        format!("private {}:{} {of_layer}", self.name.len(), self.name)
    }

    /// The parts of the key in addition to the target: a digest of the credentials, because keys are shown to people.
    pub(super) fn key_parts(&self, request: &HeaderMap, cookies: &CookiePolicy) -> impl Iterator<Item = Vec<u8>> {
        let counting = cookies.that_count(request);
        let digest = has_any(&counting, &self.credentials).then(|| self.digest(&counting));
        [PRIVATE.as_bytes().to_vec()].into_iter().chain(digest)
    }

    fn digest(&self, request: &HeaderMap) -> Vec<u8> {
        let mut hash = Sha256::new();
        let mut write = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        write(self.name.as_bytes());
        for name in &self.credentials {
            // The number of lines distinguishes an absent field from an empty one.
            write(&request.get_all(name).iter().count().to_be_bytes());
            request.get_all(name).iter().for_each(|line| write(line.as_bytes()));
        }
        hash.finalize()[..16].iter().flat_map(|byte| hex::of_byte(*byte)).collect()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("name", &self.name).field("credentials", &self.credentials).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::{names::Names, test_fields::headers};

    const ALICE: (&str, &str) = ("authorization", "Bearer alice");

    fn parts(owner: &Owner, fields: &[(&'static str, &str)]) -> Vec<Vec<u8>> {
        let cookies = CookiePolicy { ignored: Names::new(["_ga*"]), ..CookiePolicy::default() };
        owner.key_parts(&headers(fields), &cookies).collect()
    }

    #[test]
    fn credentials_are_told_apart_and_not_shown() {
        let owner = Owner::new("a".to_owned());
        let all: Vec<_> = [
            &[][..],
            &[ALICE],
            &[("authorization", "Bearer alicf")],
            &[("authorization", "")],
            &[ALICE, ("cookie", "s=1")],
            &[("cookie", "s=1")],
            &[("cookie", "Bearer alice")],
            &[ALICE, ALICE],
        ]
        .iter()
        .map(|fields| parts(&owner, fields))
        .collect();
        for one in &all {
            assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "{one:?}");
            assert!(one.iter().all(|part| !String::from_utf8_lossy(part).contains("alice")), "{one:?}");
        }
        assert_ne!(parts(&owner, &[ALICE]), parts(&Owner::new("b".to_owned()), &[ALICE]));
    }

    #[test]
    fn cookies_that_make_no_difference_are_no_credentials() {
        let owner = Owner::new("a".to_owned());
        assert_eq!(parts(&owner, &[("cookie", "s=1; _ga=2")]), parts(&owner, &[("cookie", "s=1")]));
        assert_eq!(parts(&owner, &[("cookie", "_ga=2")]), parts(&owner, &[]));
    }

    #[test]
    fn other_fields_are_credentials_by_choice() {
        let mut owner = Owner::new("a".to_owned());
        let keyed = |owner: &Owner, key: &str| parts(owner, &[("x-api-key", key)]);
        assert_eq!(keyed(&owner, "1"), keyed(&owner, "2"));
        owner.add_credentials([HeaderName::from_static("x-api-key")]);
        assert_ne!(keyed(&owner, "1"), keyed(&owner, "2"));
    }

    #[test]
    fn no_two_owners_have_one_namespace() {
        let of = |name: &str, layer: &str| Owner::new(name.to_owned()).namespace(layer);
        assert_ne!(of("a", " b"), of("a ", "b"));
        assert_ne!(of("a 1:b", ""), of("a", "1:b "));
        assert_ne!(of("a", ""), of("b", ""));
    }
}
