//! Where products live: SQLite or PostgreSQL, by URL, with the same migrations and queries.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use sqlx::{
    Any, AnyConnection, AnyPool, Connection,
    any::{AnyArguments, AnyConnectOptions, AnyPoolOptions},
    migrate::Migrator,
    pool::PoolConnection,
    query::Query,
    sqlite::SqliteConnectOptions,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::{
    config::SecretUrl,
    price::Price,
    product::{Category, Product},
    sql_error::{is_busy, is_full_of_connections},
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How long a request waits for a free connection, and the start for the first one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the start may take to bring the schema up to date, including the wait for another process that does so.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that has waited so long for a connection waits for other requests, or for a database that can't be reached.
const LONG_WAIT: Duration = Duration::from_millis(50);

/// How long a database may take for a new connection before it counts as out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last check counts of whether the database can be reached.
const ASKED_LATELY: Duration = Duration::from_secs(1);

/// A pool of connections; a clone shares it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pool: AnyPool,
    whereabouts: Whereabouts,
}

/// Where the products are, outside of this process.
#[derive(Clone, Debug)]
enum Whereabouts {
    Memory,
    File(Arc<DatabaseFile>),
    Server(Arc<DatabaseServer>),
}

/// A file, identified by what stays the same when it is renamed.
#[derive(Debug)]
struct DatabaseFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

#[derive(Debug)]
struct DatabaseServer {
    options: AnyConnectOptions,
    /// When it was last asked for a connection of its own, and why there was none.
    asked: Mutex<Option<(Instant, Option<String>)>>,
    /// When it last answered over a connection of the pool.
    answered: std::sync::Mutex<Option<Instant>>,
}

impl Database {
    /// Connects and brings the schema up to date. Several processes may do so at the same time.
    pub(crate) async fn open(url: &SecretUrl, connections: u32) -> sqlx::Result<Self> {
        sqlx::any::install_default_drivers();
        let sqlite = url.expose().starts_with("sqlite:");
        let in_memory = url.expose().contains(":memory:") || url.expose().contains("mode=memory");
        let file = sqlite && !in_memory;
        let options: AnyConnectOptions =
            if file { created_if_missing(url.expose()).parse()? } else { url.expose().parse()? };

        // A pool's first connection would only report that it timed out, and not why.
        let probe = AnyConnection::connect_with(&options);
        let probe = timeout(ACQUIRE_TIMEOUT, probe).await;
        probe.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await?;
        let (options, whereabouts) = if file {
            let file = DatabaseFile::new(url.expose().parse::<SqliteConnectOptions>()?.get_filename())?;
            (never_created(url.expose()).parse()?, Whereabouts::File(Arc::new(file)))
        } else if in_memory {
            (options, Whereabouts::Memory)
        } else {
            let server = Arc::new(DatabaseServer::new(&options));
            (options, Whereabouts::Server(server))
        };

        let pool = AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = if in_memory {
            // Such a database belongs to one connection and ends with it.
            pool.max_connections(1).idle_timeout(None).max_lifetime(None)
        } else {
            pool.max_connections(connections)
        };
        let pool = pool.connect_lazy_with(options);
        let mut connection = pool.acquire().await?;
        let up_to_date =
            async { if sqlite { prepare_sqlite(&mut connection).await } else { migrate(&mut connection).await } };
        within(MIGRATION_TIMEOUT, up_to_date).await?;
        drop(connection);
        Ok(Self { pool, whereabouts })
    }

    /// A connection, or at once an error that [`is_absent`](crate::sql_error::is_absent) if there can be none.
    async fn connection(&self) -> sqlx::Result<PoolConnection<Any>> {
        self.is_in_place()?;
        let Whereabouts::Server(server) = &self.whereabouts else { return self.pool.acquire().await };
        // If a server refuses connections, the pool tries again until its timeout.
        tokio::select! {
            biased;
            connection = self.pool.acquire() => connection.inspect(|_| server.has_answered()),
            error = server.out_of_reach() => Err(error.into()),
        }
    }

    /// Whether the file that holds the products is still the one that was opened. Says nothing of a server.
    pub(crate) fn is_in_place(&self) -> io::Result<()> {
        match &self.whereabouts {
            Whereabouts::File(file) => file.is_in_place(),
            Whereabouts::Memory | Whereabouts::Server(_) => Ok(()),
        }
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
        let mut connection = self.connection().await?;
        let total = total.fetch_one(&mut *connection).await?;
        let rows: Vec<Row> = items.bind(limit).bind(offset).fetch_all(&mut *connection).await?;
        Ok((rows.into_iter().map(product).collect(), total))
    }

    pub(crate) async fn product(&self, id: i64) -> sqlx::Result<Option<Product>> {
        let row = sqlx::query_as("SELECT id, name, price_cents, category, stock FROM products WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut *self.connection().await?)
            .await?;
        Ok(row.map(product))
    }

    pub(crate) async fn categories(&self) -> sqlx::Result<Vec<Category>> {
        let rows: Vec<(String, i64)> = sqlx::query_as("SELECT category, COUNT(*) FROM products GROUP BY category")
            .fetch_all(&mut *self.connection().await?)
            .await?;
        let mut categories: Vec<_> = rows.into_iter().map(|(name, products)| Category { name, products }).collect();
        // Sorted here: each database has its own idea of the order of texts.
        categories.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(categories)
    }

    /// An id that no product has or had.
    pub(crate) async fn next_id(&self) -> sqlx::Result<i64> {
        sqlx::query_scalar("UPDATE product_ids SET last = last + 1 RETURNING last")
            .fetch_one(&mut *self.connection().await?)
            .await
    }

    pub(crate) async fn insert(&self, product: &Product) -> sqlx::Result<()> {
        const INSERT: &str =
            "INSERT INTO products (id, name, price_cents, category, stock) VALUES ($1, $2, $3, $4, $5)";
        write(INSERT, product).execute(&mut *self.connection().await?).await?;
        Ok(())
    }

    /// `false` if there is no such product.
    pub(crate) async fn replace(&self, product: &Product) -> sqlx::Result<bool> {
        const UPDATE: &str = "UPDATE products SET name = $2, price_cents = $3, category = $4, stock = $5 WHERE id = $1";
        let done = write(UPDATE, product).execute(&mut *self.connection().await?).await?;
        Ok(done.rows_affected() > 0)
    }

    /// `false` if there is no such product.
    pub(crate) async fn delete(&self, id: i64) -> sqlx::Result<bool> {
        let done =
            sqlx::query("DELETE FROM products WHERE id = $1").bind(id).execute(&mut *self.connection().await?).await?;
        Ok(done.rows_affected() > 0)
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.connection().await?.ping().await
    }

    /// Waits until every connection is returned and closed.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl DatabaseFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// Open connections would go on with a deleted file, and new ones would see another.
    fn is_in_place(&self) -> io::Result<()> {
        let path = self.path.display();
        let missing = |error: io::Error| io::Error::new(error.kind(), format!("the database {path} is gone: {error}"));
        let metadata = fs::metadata(&self.path).map_err(missing)?;
        if (metadata.dev(), metadata.ino()) == (self.device, self.inode) {
            Ok(())
        } else {
            Err(io::Error::other(format!("the database {path} was replaced by another; the service must be restarted")))
        }
    }
}

impl DatabaseServer {
    fn new(options: &AnyConnectOptions) -> Self {
        Self { options: options.clone(), asked: Mutex::default(), answered: std::sync::Mutex::default() }
    }

    /// Ends, with the reason, if a request waits for a connection because no new one can be made. One of the waiting requests
    /// checks for all of them.
    async fn out_of_reach(&self) -> io::Error {
        sleep(LONG_WAIT).await;
        loop {
            {
                let mut asked = self.asked.lock().await;
                if asked.as_ref().is_none_or(|(when, _)| when.elapsed() >= ASKED_LATELY) {
                    let refusal = self.refusal().await;
                    *asked = Some((Instant::now(), refusal));
                }
                if let Some((_, Some(reason))) = &*asked {
                    return io::Error::new(ErrorKind::NotConnected, reason.clone());
                }
            }
            sleep(ASKED_LATELY).await;
        }
    }

    /// The pool asks the server before it lends a connection.
    fn has_answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Why there is no new connection.
    async fn refusal(&self) -> Option<String> {
        let began = Instant::now();
        let answers = || self.answered.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|when| when >= began);
        match timeout(CONNECT_TIMEOUT, AnyConnection::connect_with(&self.options)).await {
            Ok(Ok(connection)) => {
                let _ = timeout(CONNECT_TIMEOUT, connection.close()).await;
                None
            }
            // The server is there, and busy.
            Ok(Err(error)) if is_full_of_connections(&error) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) if answers() => None,
            Err(_) => Some(format!("no connection within {CONNECT_TIMEOUT:?}")),
        }
    }
}

/// A product's columns, in the order in which every statement has them.
type Row = (i64, String, i64, String, i64);

fn product((id, name, cents, category, stock): Row) -> Product {
    Product { id, name, price: Price::from_cents(cents), category, stock }
}

/// A statement that takes the columns of a product as `$1` to `$5`.
fn write(statement: &'static str, product: &Product) -> Query<'static, Any, AnyArguments> {
    sqlx::query(statement)
        .bind(product.id)
        .bind(product.name.clone())
        .bind(product.price.cents())
        .bind(product.category.clone())
        .bind(product.stock)
}

fn created_if_missing(url: &str) -> String {
    if url.contains("mode=") {
        return url.to_owned();
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}mode=rwc")
}

/// For all connections after the first: if the file is deleted meanwhile, SQLite must not create an empty one.
fn never_created(url: &str) -> String {
    url.replace("mode=rwc", "mode=rw")
}

async fn prepare_sqlite(connection: &mut AnyConnection) -> sqlx::Result<()> {
    // Readers and the writer do not wait for each other.
    let switch = async {
        loop {
            match sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await {
                // Two processes that start at the same time could wait for each other: SQLite refuses one of them at once.
                Err(error) if is_busy(&error) => sleep(LONG_WAIT).await,
                switched => return switched,
            }
        }
    };
    timeout(ACQUIRE_TIMEOUT, switch).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    // The migrator locks a PostgreSQL database against other starting processes, but not this one.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    migrate(&mut transaction).await?;
    transaction.commit().await
}

/// A database that does not answer, or another process that holds its lock, must not make the start wait without an end.
async fn within(limit: Duration, migrated: impl Future<Output = sqlx::Result<()>>) -> sqlx::Result<()> {
    timeout(limit, migrated).await.unwrap_or_else(|_| {
        let why = format!("the schema was not up to date within {limit:?}; another process may hold the lock for that");
        Err(io::Error::new(ErrorKind::TimedOut, why).into())
    })
}

async fn migrate(connection: &mut AnyConnection) -> sqlx::Result<()> {
    // `Migrator::run` does the same, but not within a task that is spawned.
    Ok(MIGRATIONS.run_direct(None, connection, false).await?)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::sql_error::is_absent;

    fn url(folder: &TempDir) -> SecretUrl {
        let file = folder.path().join("products.db");
        format!("sqlite://{}", file.display()).into()
    }

    #[tokio::test]
    async fn the_start_does_not_wait_for_the_schema_without_an_end() {
        let error = within(Duration::ZERO, std::future::pending()).await.unwrap_err().to_string();
        assert!(error.contains("the schema was not up to date within 0ns"), "{error}");
        within(MIGRATION_TIMEOUT, async { Ok(()) }).await.unwrap();
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
    async fn a_file_that_is_deleted_is_one_answer_for_all_and_is_not_made_anew() {
        let folder = TempDir::new().unwrap();
        for url in [url(&folder), format!("{}?mode=rwc", url(&folder).expose()).into()] {
            let database = Database::open(&url, 4).await.unwrap();
            let (file, elsewhere) = (folder.path().join("products.db"), folder.path().join("elsewhere.db"));
            fs::rename(&file, &elsewhere).unwrap();
            for _ in 0..2 {
                let errors = [
                    database.products(None, 1, 0).await.unwrap_err(),
                    database.product(1).await.unwrap_err(),
                    database.categories().await.unwrap_err(),
                    database.next_id().await.unwrap_err(),
                    database.delete(1).await.unwrap_err(),
                    database.ping().await.unwrap_err(),
                    database.is_in_place().unwrap_err().into(),
                ];
                for error in errors {
                    assert!(is_absent(&error) && error.to_string().contains("products.db is gone"), "{error}");
                }
            }
            assert!(!file.exists());

            fs::write(&file, "").unwrap();
            let error = database.product(1).await.unwrap_err();
            assert!(is_absent(&error) && error.to_string().contains("replaced"), "{error}");

            fs::rename(&elsewhere, &file).unwrap();
            assert!(database.product(1).await.unwrap().is_some());
            database.close().await;
        }
    }

    #[tokio::test]
    async fn no_connection_but_the_first_makes_a_file() {
        let folder = TempDir::new().unwrap();
        for url in [url(&folder), format!("{}?mode=rwc", url(&folder).expose()).into()] {
            let database = Database::open(&url, 3).await.unwrap();
            // The first one is given back in a task; it shall be among these.
            while database.pool.num_idle() == 0 {
                tokio::task::yield_now().await;
            }
            let open = [database.connection().await.unwrap(), database.connection().await.unwrap()];
            let file = folder.path().join("products.db");
            fs::remove_file(&file).unwrap();
            let error = database.pool.acquire().await.unwrap_err();
            assert!(is_absent(&error), "{error}");
            assert!(!file.exists());
            drop(open);
            database.close().await;
        }
    }

    /// A service that was started when there was a PostgreSQL at this port.
    fn without_its_server(port: u16) -> Database {
        sqlx::any::install_default_drivers();
        let options = format!("postgres://me@127.0.0.1:{port}/products").parse().unwrap();
        let whereabouts = Whereabouts::Server(Arc::new(DatabaseServer::new(&options)));
        let pool = AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).max_connections(2);
        Database { pool: pool.connect_lazy_with(options), whereabouts }
    }

    #[tokio::test]
    async fn a_server_that_refuses_connections_or_is_silent_is_not_waited_for_as_long_as_a_busy_one() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for (port, why) in [(refusing, "refused"), (silent.local_addr().unwrap().port(), "no connection within 2s")] {
            let database = without_its_server(port);
            let mut requests = tokio::task::JoinSet::new();
            for id in 1..=50 {
                let database = database.clone();
                requests.spawn(async move { database.product(id).await.unwrap_err() });
            }
            while let Some(error) = requests.join_next().await {
                let error = error.unwrap();
                assert!(is_absent(&error) && error.to_string().contains(why), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_answers_others_is_busy_however_long_it_takes_for_a_new_connection() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let database = without_its_server(silent.local_addr().unwrap().port());
        let Whereabouts::Server(server) = database.whereabouts.clone() else { panic!("there is a server") };
        let others = tokio::spawn(async move {
            loop {
                server.has_answered();
                sleep(LONG_WAIT).await;
            }
        });
        let error = database.product(1).await.unwrap_err();
        assert!(matches!(error, sqlx::Error::PoolTimedOut), "{error}");
        others.abort();
    }

    #[tokio::test]
    async fn a_locked_file_is_no_fault_of_the_service() {
        let folder = TempDir::new().unwrap();
        let url = format!("{}?mode=rw", url(&folder).expose()).into();
        Database::open(&url, 1).await.unwrap_err();
        let url = format!("sqlite://{}", folder.path().join("products.db").display()).into();
        let (database, other) = (Database::open(&url, 1).await.unwrap(), Database::open(&url, 1).await.unwrap());
        let mut connection = other.connection().await.unwrap();
        let transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let error = database.delete(1).await.unwrap_err();
        assert!(is_absent(&error), "{error}");
        transaction.rollback().await.unwrap();
        assert!(database.delete(1).await.unwrap());
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_opened_says_why() {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/missing/products.db", folder.path().display());
        let error = Database::open(&url.into(), 2).await.unwrap_err();
        assert!(error.to_string().contains("unable to open"), "{error}");
    }
}
