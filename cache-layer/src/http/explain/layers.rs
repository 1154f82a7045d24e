//! Explaining a request, by a layer.

use bytes::Bytes;
use http::Request;
use http_body::Body;

use super::{details::ResponseDetails, explanation::Explanation, request::Asked};
use crate::{
    engine::{Reading, Retrieved},
    http::{layer::CacheLayer, private::PrivateCacheLayer, query::QueryLayer, response_entry::ResponseEntry},
    key::Key,
};

/// # Explaining
impl CacheLayer {
    /// Says what this layer would do with `request` now, and why. It uses the same functions as an actual request, but loads,
    /// stores and forwards nothing. It reads the store as a request does, takes no lease, and does not count as a look-up for
    /// observers. [`Hints`](crate::Hints) in the request and [`bypass_if`](Self::bypass_if) are honoured.
    ///
    /// The next such request is handled in this way, unless the entry, its tags, or the loads under way change in between.
    /// Three things are not known beforehand: what the application will [answer](Explanation::if_answered), whether it will
    /// have a free [place](Self::max_loads), and the chance by which an entry is [refreshed early](Self::early_refresh).
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, Verdict, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    /// let request = http::Request::get("http://shop.example/products").body(String::new()).unwrap();
    /// let explanation = layer.explain(&request).await;
    /// assert_eq!(explanation.verdict, Verdict::Load);
    /// assert_eq!(explanation.cache_status, "cache-layer; fwd=uri-miss; stored");
    /// # }
    /// ```
    pub fn explain<'s, B: Body>(
        &'s self,
        request: &Request<B>,
    ) -> impl Future<Output = Explanation> + Send + use<'s, B> {
        // Boxed, because the future is large and rarely used.
        Box::pin(self.examine(Asked::new(request, !request.body().is_end_stream())))
    }

    /// The response that is stored under `key`, of a request or of one of its variants; `None` if there is none, if it is not
    /// used, or if the store does not answer. Whether it may answer a request is a question for [`explain`](Self::explain).
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, store::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20)));
    /// let key = layer.key(&http::Uri::from_static("http://shop.example/products")).unwrap();
    /// if let Some(response) = layer.stored(&key).await {
    ///     println!("{}, {} bytes, {:?}", response.status, response.entry.bytes, response.codings);
    /// }
    /// # }
    /// ```
    pub async fn stored(&self, key: &Key) -> Option<ResponseDetails> {
        let cache = &self.context.cache;
        let entry = match cache.peek(key) {
            Some(entry) => entry,
            None => match cache.read(key, Reading::Inspection).await {
                Retrieved::Found(entry) => entry,
                Retrieved::Missing(_) | Retrieved::Unavailable => return None,
            },
        };
        ResponseEntry::new(entry).map(|entry| self.context.details(&entry))
    }
}

/// # Explaining
impl PrivateCacheLayer {
    /// Says what this layer would do with `request` now, and why, as [`CacheLayer::explain`] does.
    pub fn explain<B: Body>(&self, request: &Request<B>) -> impl Future<Output = Explanation> + Send + use<B> {
        let (layer, asked) = (self.of_owner(), Asked::new(request, !request.body().is_end_stream()));
        Box::pin(async move { layer.examine(asked).await })
    }
}

impl QueryLayer {
    /// As [`CacheLayer::explain`], for a request whose complete body is `content`: if a request is answered by its content, the
    /// content is part of its key.
    ///
    /// ```
    /// # use cache_layer::{Cache, CacheLayer, Verdict, store::MemoryStore};
    /// # use bytes::Bytes;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let layer = CacheLayer::new(Cache::new(MemoryStore::new(1 << 20))).query();
    /// let request = http::Request::builder().method("QUERY").uri("http://shop.example/search");
    /// let request = request.header("content-type", "text/plain").body(()).unwrap();
    /// let explanation = layer.explain(&request, Bytes::from_static(b"shoes")).await;
    /// assert_eq!(explanation.verdict, Verdict::Load);
    /// assert!(explanation.key.is_some_and(|key| key.content.is_some()));
    /// # }
    /// ```
    pub fn explain<'s, B>(
        &'s self,
        request: &Request<B>,
        content: Bytes,
    ) -> impl Future<Output = Explanation> + Send + use<'s, B> {
        let mut asked = Asked::new(request, !content.is_empty());
        Box::pin(async move {
            asked.content = self.digest_of(asked.request(), content).await.into();
            self.cache_layer().examine(asked).await
        })
    }
}
