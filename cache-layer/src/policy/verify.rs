//! How hits are verified.

use http::{
    HeaderName,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, LOCATION},
};

/// How often fresh hits are verified, and by what: for [`CacheLayer::verify`](crate::CacheLayer::verify) and
/// [`CacheBuilder::verify`](crate::CacheBuilder::verify). A number is a rate.
///
/// ```
/// use cache_layer::Verify;
/// use http::header::{CONTENT_TYPE, LAST_MODIFIED};
///
/// let verify = Verify::new(0.001).fields([CONTENT_TYPE, LAST_MODIFIED]).soften(true);
/// assert_eq!(verify.rate(), 0.001);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Verify {
    rate: f64,
    fields: Vec<HeaderName>,
    softens: bool,
}

impl Verify {
    /// This share of the hits, from 0 to 1, at most; none, if it is zero, less, or no number.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        let rate = if rate > 0.0 { rate.min(1.0) } else { 0.0 };
        let fields = vec![CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, ETAG, LOCATION];
        Self { rate, fields, softens: false }
    }

    /// The response fields that are compared beside status and body: `Content-Type`, `Content-Encoding`, `Content-Language`, `ETag`
    /// and `Location` unless set. Those that are not stored are left out.
    #[must_use]
    pub fn fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.fields = names.into_iter().collect();
        self
    }

    /// Whether an entry that was found to differ twice, from the same, is [made stale](crate::Cache::soft_invalidate); it is not
    /// unless set.
    #[must_use]
    pub fn soften(mut self, softens: bool) -> Self {
        self.softens = softens;
        self
    }

    /// The share of the hits.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub(crate) fn compared(&self) -> &[HeaderName] {
        &self.fields
    }

    pub(crate) fn softens(&self) -> bool {
        self.softens
    }
}

impl From<f64> for Verify {
    fn from(rate: f64) -> Self {
        Self::new(rate)
    }
}
