//! Where products live: SQLite or PostgreSQL, by URL, with the same migrations and queries.

use std::time::Duration;

use sqlx::{
    AnyConnection, AnyPool, Connection,
    any::{AnyConnectOptions, AnyPoolOptions},
    migrate::Migrator,
};
use tokio::time::timeout;

use crate::{
    config::SecretUrl,
    price::Price,
    product::{Category, Product},
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How long a request waits for a free connection, and the start for the first one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of connections; a clone shares it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pool: AnyPool,
}

impl Database {
    /// Connects and brings the schema up to date. Several processes may do so at the same time.
    pub(crate) async fn open(url: &SecretUrl, connections: u32) -> sqlx::Result<Self> {
        sqlx::any::install_default_drivers();
        let sqlite = url.expose().starts_with("sqlite:");
        let in_memory = url.expose().contains(":memory:") || url.expose().contains("mode=memory");
        let options: AnyConnectOptions =
            if sqlite && !in_memory { created_if_missing(url.expose()).parse()? } else { url.expose().parse()? };

        // Asked for its first connection, a pool would only say that it timed out.
        let probe = AnyConnection::connect_with(&options);
        let probe = timeout(ACQUIRE_TIMEOUT, probe).await;
        probe.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await?;

        let pool = AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = if in_memory {
            // Such a database belongs to one connection and ends with it.
            pool.max_connections(1).idle_timeout(None).max_lifetime(None)
        } else {
            pool.max_connections(connections)
        };
        let pool = pool.connect_lazy_with(options);
        let mut connection = pool.acquire().await?;
        if sqlite {
            prepare_sqlite(&mut connection).await?;
        } else {
            migrate(&mut connection).await?;
        }
        drop(connection);
        Ok(Self { pool })
    }

    /// Some products in the order of their ids, and how many there are in all.
    pub(crate) async fn products(
        &self,
        category: Option<&str>,
        limit: i64,
        offset: i64,
    ) -> sqlx::Result<(Vec<Product>, i64)> {
        let (items, total) = match category.map(str::to_owned) {
            None => (
                sqlx::query_as(
                    "SELECT id, name, price_cents, category, stock FROM products
                     ORDER BY id LIMIT $1 OFFSET $2",
                ),
                sqlx::query_scalar("SELECT COUNT(*) FROM products"),
            ),
            Some(category) => (
                sqlx::query_as(
                    "SELECT id, name, price_cents, category, stock FROM products
                     WHERE category = $1 ORDER BY id LIMIT $2 OFFSET $3",
                )
                .bind(category.clone()),
                sqlx::query_scalar("SELECT COUNT(*) FROM products WHERE category = $1").bind(category),
            ),
        };
        let total = total.fetch_one(&self.pool).await?;
        let rows: Vec<Row> = items.bind(limit).bind(offset).fetch_all(&self.pool).await?;
        Ok((rows.into_iter().map(product).collect(), total))
    }

    pub(crate) async fn product(&self, id: i64) -> sqlx::Result<Option<Product>> {
        let row = sqlx::query_as("SELECT id, name, price_cents, category, stock FROM products WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(product))
    }

    pub(crate) async fn categories(&self) -> sqlx::Result<Vec<Category>> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT category, COUNT(*) FROM products GROUP BY category").fetch_all(&self.pool).await?;
        let mut categories: Vec<_> = rows.into_iter().map(|(name, products)| Category { name, products }).collect();
        // Sorted here: each database has its own idea of the order of texts.
        categories.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(categories)
    }

    /// An id that no product has or had.
    pub(crate) async fn next_id(&self) -> sqlx::Result<i64> {
        sqlx::query_scalar("UPDATE product_ids SET last = last + 1 RETURNING last").fetch_one(&self.pool).await
    }

    pub(crate) async fn insert(&self, product: &Product) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO products (id, name, price_cents, category, stock)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(product.id)
        .bind(product.name.clone())
        .bind(product.price.cents())
        .bind(product.category.clone())
        .bind(product.stock)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// `false` if there is no such product.
    pub(crate) async fn replace(&self, product: &Product) -> sqlx::Result<bool> {
        let done = sqlx::query(
            "UPDATE products SET name = $2, price_cents = $3, category = $4, stock = $5
             WHERE id = $1",
        )
        .bind(product.id)
        .bind(product.name.clone())
        .bind(product.price.cents())
        .bind(product.category.clone())
        .bind(product.stock)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// `false` if there is no such product.
    pub(crate) async fn delete(&self, id: i64) -> sqlx::Result<bool> {
        let done = sqlx::query("DELETE FROM products WHERE id = $1").bind(id).execute(&self.pool).await?;
        Ok(done.rows_affected() > 0)
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.pool.acquire().await?.ping().await
    }

    /// Waits until every connection is returned and closed.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

type Row = (i64, String, i64, String, i64);

fn product((id, name, cents, category, stock): Row) -> Product {
    Product { id, name, price: Price::from_cents(cents), category, stock }
}

fn created_if_missing(url: &str) -> String {
    if url.contains("mode=") {
        return url.to_owned();
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}mode=rwc")
}

async fn prepare_sqlite(connection: &mut AnyConnection) -> sqlx::Result<()> {
    // Readers and the writer do not wait for each other.
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await?;
    // The migrator locks a PostgreSQL database against other starting processes, but not this one.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    migrate(&mut transaction).await?;
    transaction.commit().await
}

async fn migrate(connection: &mut AnyConnection) -> sqlx::Result<()> {
    // `Migrator::run` does the same, but not within a task that is spawned.
    Ok(MIGRATIONS.run_direct(None, connection, false).await?)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn url(folder: &TempDir) -> SecretUrl {
        let file = folder.path().join("products.db");
        format!("sqlite://{}", file.display()).into()
    }

    #[tokio::test]
    async fn a_new_database_has_a_hundred_products() {
        let database = Database::open(&"sqlite::memory:".into(), 10).await.unwrap();
        let (products, total) = database.products(None, 2, 98).await.unwrap();
        assert_eq!(total, 100);
        let expected = [(99, "554.49", "electronics", 990), (100, "559.99", "clothing", 1000)];
        assert_eq!(
            products,
            expected.map(|(id, price, category, stock)| Product {
                id,
                name: format!("Product {id}"),
                price: price.parse().unwrap(),
                category: category.to_owned(),
                stock,
            })
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn starts_at_the_same_time_make_one_database() {
        let folder = TempDir::new().unwrap();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let url = url(&folder);
                tokio::spawn(async move { Database::open(&url, 2).await })
            })
            .collect();
        for start in starts {
            let database = start.await.unwrap().unwrap();
            assert_eq!(database.products(None, 1, 0).await.unwrap().1, 100);
            database.close().await;
        }
    }

    #[tokio::test]
    async fn an_emptied_catalogue_stays_empty_and_its_ids_unused() {
        let folder = TempDir::new().unwrap();
        let database = Database::open(&url(&folder), 2).await.unwrap();
        for id in 1..=100 {
            assert!(database.delete(id).await.unwrap());
        }
        database.close().await;

        let database = Database::open(&url(&folder), 2).await.unwrap();
        assert_eq!(database.products(None, 1, 0).await.unwrap(), (Vec::new(), 0));
        assert_eq!(database.categories().await.unwrap(), []);
        assert_eq!(database.next_id().await.unwrap(), 101);
        database.close().await;
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_opened_says_why() {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/missing/products.db", folder.path().display());
        let error = Database::open(&url.into(), 2).await.unwrap_err();
        assert!(error.to_string().contains("unable to open"), "{error}");
    }
}
