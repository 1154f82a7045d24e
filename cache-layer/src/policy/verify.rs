//! How hits are verified.

use http::{
    HeaderName,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, LOCATION},
};

/// How often fresh hits are verified, and what is compared: for [`CacheLayer::verify`](crate::CacheLayer::verify) and
/// [`CacheBuilder::verify`](crate::CacheBuilder::verify). A plain number is a rate.
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
    /// Verifies at most this share of the hits, from 0 to 1; none, if `rate` is zero, negative, or NaN.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        let rate = if rate > 0.0 { rate.min(1.0) } else { 0.0 };
        let fields = vec![CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, ETAG, LOCATION];
        Self { rate, fields, softens: false }
    }

    /// The response fields that are compared, in addition to status and body: `Content-Type`, `Content-Encoding`,
    /// `Content-Language`, `ETag` and `Location` unless set. `Date`, and fields that are not stored, are not compared.
    #[must_use]
    pub fn fields(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.fields = names.into_iter().collect();
        self
    }

    /// Whether an entry is [made stale](crate::Cache::soft_invalidate) when two loads returned the same response, and it
    /// differs from the entry; it is not unless set.
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
