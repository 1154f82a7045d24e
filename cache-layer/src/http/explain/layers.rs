//! Explaining a request, by a layer.

use bytes::Bytes;
use http::Request;
use http_body::Body;

use super::{explanation::Explanation, request::Asked};
use crate::http::{layer::CacheLayer, private::PrivateCacheLayer, query::QueryLayer};

/// # Explaining
impl CacheLayer {
    /// What this layer would do with `request` now, and why: computed by the functions that a request is answered by, while
    /// nothing is loaded, stored or sent to the application. It reads the store as a request does, takes no lease, and is no look-up
    /// to observers. What a layer outside says of the request counts ([`Hints`](crate::Hints)), and so does
    /// [`bypass_if`](Self::bypass_if).
    ///
    /// The next such request is treated so, unless the entry, its tags, or the loads under way change in between. Three things
    /// are not known beforehand: what the application will [answer](Explanation::if_answered), whether there will be
    /// [room](Self::max_loads) at it, and the chance by which an entry is [refreshed early](Self::early_refresh).
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
        // In a box, as the other one: it is large, and nobody waits for it often.
        Box::pin(self.examine(Asked::new(request, !request.body().is_end_stream())))
    }
}

/// # Explaining
impl PrivateCacheLayer {
    /// What this layer would do with `request` now, and why, as [`CacheLayer::explain`] tells it.
    pub fn explain<B: Body>(&self, request: &Request<B>) -> impl Future<Output = Explanation> + Send + use<B> {
        let (layer, asked) = (self.of_owner(), Asked::new(request, !request.body().is_end_stream()));
        Box::pin(async move { layer.examine(asked).await })
    }
}

impl QueryLayer {
    /// As [`CacheLayer::explain`], for a request whose body is `content`, all of it: the key of a request that is answered by its
    /// content has that in it.
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
