//! The products in the database and the cache in front of them, kept in step.

use std::sync::Arc;

use cache_layer::{Cache, cached};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    cache::{ProductCache, Source},
    database::Database,
    problem::Problem,
    product::{Category, Product, ProductInput},
};

/// A failed read, shared by all the requests that waited for it.
type ReadError = Arc<sqlx::Error>;

/// Reads and changes products; a clone shares database, cache and the changes under way.
#[derive(Clone)]
pub(crate) struct Catalogue {
    database: Database,
    cache: ProductCache,
    changes: TaskTracker,
}

impl Catalogue {
    pub(crate) fn new(database: Database, cache: ProductCache) -> Self {
        Self { database, cache, changes: TaskTracker::new() }
    }

    /// `None` if there is no such product.
    pub(crate) async fn product(&self, id: i64) -> Result<Option<Product>, ReadError> {
        match self.cache.values() {
            Some(cache) => self.cached_product(cache, id).await,
            None => Ok(self.database.product(id).await?),
        }
    }

    /// Some products in the order of their ids, and how many there are in all.
    pub(crate) async fn products(
        &self,
        category: Option<String>,
        limit: i64,
        offset: i64,
    ) -> Result<(Vec<Product>, i64), ReadError> {
        match self.cache.values() {
            Some(cache) => self.cached_products(cache, category, limit, offset).await,
            None => Ok(self.database.products(category.as_deref(), limit, offset).await?),
        }
    }

    pub(crate) async fn categories(&self) -> Result<Vec<Category>, ReadError> {
        match self.cache.values() {
            Some(cache) => self.cached_categories(cache).await,
            None => Ok(self.database.categories().await?),
        }
    }

    #[cached(
        name = "product",
        ttl = self.cache.ttl(),
        negative_ttl = self.cache.negative_ttl(),
        tags = [Source::Product(id).to_string()],
        lock
    )]
    async fn cached_product(&self, cache: &Cache, id: i64) -> Result<Option<Product>, ReadError> {
        Ok(self.database.product(id).await?)
    }

    #[cached(
        name = "products",
        ttl = self.cache.ttl(),
        tags = [Source::Products.to_string()],
        lock
    )]
    async fn cached_products(
        &self,
        cache: &Cache,
        category: Option<String>,
        limit: i64,
        offset: i64,
    ) -> Result<(Vec<Product>, i64), ReadError> {
        Ok(self.database.products(category.as_deref(), limit, offset).await?)
    }

    #[cached(
        name = "categories",
        ttl = self.cache.ttl(),
        tags = [Source::Categories.to_string()],
        lock
    )]
    async fn cached_categories(&self, cache: &Cache) -> Result<Vec<Category>, ReadError> {
        Ok(self.database.categories().await?)
    }

    pub(crate) async fn add(&self, input: ProductInput) -> Result<Product, Problem> {
        let product = input.with_id(self.database.next_id().await?);
        let database = self.database.clone();
        self.change(product.id, async move {
            database.insert(&product).await?;
            Ok(Some(product))
        })
        .await
    }

    pub(crate) async fn replace(&self, id: i64, input: ProductInput) -> Result<Product, Problem> {
        let product = input.with_id(id);
        let database = self.database.clone();
        self.change(id, async move { Ok(database.replace(&product).await?.then_some(product)) }).await
    }

    pub(crate) async fn delete(&self, id: i64) -> Result<(), Problem> {
        let database = self.database.clone();
        self.change(id, async move { Ok(database.delete(id).await?.then_some(())) }).await
    }

    /// Waits for the changes under way.
    pub(crate) async fn finish(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    /// Changes product `id` and tells the cache; `None` is "there is no such product".
    ///
    /// In a task of its own: if the client leaves in between, the cache must still be invalidated.
    async fn change<T: Send + 'static>(
        &self,
        id: i64,
        change: impl Future<Output = sqlx::Result<Option<T>>> + Send + 'static,
    ) -> Result<T, Problem> {
        let cache = self.cache.clone();
        let change = async move {
            let outcome = change.await;
            // Also after an error: the change may have been committed, and only its confirmation lost.
            if !matches!(outcome, Ok(None)) {
                cache.product_changed(id).await;
            }
            outcome
        };
        match self.changes.spawn(change.in_current_span()).await {
            Ok(outcome) => outcome?.ok_or_else(|| Problem::no_product(id)),
            Err(panic) => Err(Problem::internal(&panic)),
        }
    }
}
