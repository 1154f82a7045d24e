//! A process of a fleet.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{HOST, HttpClient, ServiceProcess};

/// The binary `cache-node`: a cache over a Redis that the fleet shares, in front of an application that it shares too.
#[derive(Debug)]
pub struct CacheNode {
    process: ServiceProcess,
    client: HttpClient,
}

/// The answers to many tasks of one process.
#[derive(Debug)]
pub struct Storm {
    /// How often each answer came, as its status and its body.
    pub answers: BTreeMap<String, u64>,
    /// When the last one came, in microseconds since the Unix epoch.
    pub finished: u64,
}

impl CacheNode {
    /// Starts `program` with these variables; `name` is what it calls itself to the application.
    #[must_use]
    pub fn start(program: &str, name: &str, variables: &[(&str, &str)]) -> Self {
        let variables: Vec<_> = [("NODE", name)].into_iter().chain(variables.iter().copied()).collect();
        Self { process: ServiceProcess::start(program, &variables), client: HttpClient::new().host(HOST) }
    }

    /// The URL of one of the application's paths, through this process.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.url())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks for `path` by so many tasks at once. The process may be killed meanwhile: then this panics.
    pub fn storm(&self, tasks: usize, path: &str) -> impl Future<Output = Storm> + use<> {
        self.storm_by(&format!("storm/{tasks}{path}"))
    }

    fn storm_by(&self, order: &str) -> impl Future<Output = Storm> + use<> {
        let answer = self.order(order);
        async move {
            let answer = answer.await;
            Storm {
                answers: serde_json::from_value(answer["answers"].clone()).expect("counts"),
                finished: answer["finished"].as_u64().expect("a time"),
            }
        }
    }

    /// As [`storm`](Self::storm), by QUERY with this content, which has no `/`.
    pub fn query_storm(&self, tasks: usize, content: &str, path: &str) -> impl Future<Output = Storm> + use<> {
        self.storm_by(&format!("query/{tasks}/{content}{path}"))
    }

    /// Asks for so many keys by so many calls at once, for values that are loaded together.
    pub fn many(&self, calls: usize, keys: usize) -> impl Future<Output = Storm> + use<> {
        self.storm_by(&format!("many/{calls}/{keys}"))
    }

    /// When this process last stored something, in microseconds since the Unix epoch; 0 if it never did.
    pub async fn stored(&self) -> u64 {
        self.order("stored").await.as_u64().expect("a time")
    }

    /// Whether it reads from Redis, over a connection that is believed to work.
    pub async fn reads_redis(&self) -> bool {
        self.order("reads-redis").await == true
    }

    /// How often it has lost a connection to Redis.
    pub async fn lost_connections(&self) -> u64 {
        self.order("lost-connections").await.as_u64().expect("a number")
    }

    /// Invalidates what carries `tag`; whether Redis has heard of it.
    pub async fn invalidate_tag(&self, tag: &str) -> bool {
        self.order(&format!("invalidate-tag/{tag}")).await == true
    }

    /// Invalidates `path`; whether Redis has heard of it.
    pub async fn invalidate_path(&self, path: &str) -> bool {
        self.order(&format!("invalidate-path{path}")).await == true
    }

    fn order(&self, order: &str) -> impl Future<Output = Value> + use<> {
        let (client, url) = (self.client.clone(), self.url(&format!("/-/{order}")));
        async move {
            let answer = client.get(&url, &[]).await;
            serde_json::from_slice(&answer.body).expect("JSON")
        }
    }
}
