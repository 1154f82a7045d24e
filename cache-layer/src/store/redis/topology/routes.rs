//! The server for an operation: the only one, or a node of a cluster.

use std::{borrow::Cow, future::ready, sync::Arc};

use futures_util::future::select_all;

#[cfg(feature = "cluster")]
use super::cluster::Cluster;
use crate::store::redis::connection::{handle::Connection, session::Session};
use crate::{
    key::Key,
    store::{BoxFuture, StoreError},
};

#[derive(Debug)]
pub(crate) enum Topology {
    /// Connections to one server.
    One(Vec<Arc<Connection>>),
    #[cfg(feature = "cluster")]
    Cluster(Arc<Cluster>),
}

/// A connection, and its session.
pub(crate) type Route<'a> = (Cow<'a, Arc<Connection>>, Cow<'a, Arc<Session>>);

impl Topology {
    /// The connection of `key`: always the same one, so that operations on a key stay in order.
    pub(crate) fn of_key(&self, key: &Key) -> Cow<'_, Arc<Connection>> {
        match self {
            Self::One(connections) => Cow::Borrowed(&connections[usize::from(key.id().primary[0]) % connections.len()]),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => Cow::Owned(cluster.connection(key)),
        }
    }

    /// The connection by which to read the tags of an entry that was read over `session`. If possible, it is the same one, so
    /// that changes of the entry and of its tags are seen in order.
    pub(crate) fn of_tags_beside<'a>(
        &self,
        connection: &'a Arc<Connection>,
        session: &'a Arc<Session>,
    ) -> Result<Route<'a>, StoreError> {
        match self {
            Self::One(_) => Ok((Cow::Borrowed(connection), Cow::Borrowed(session))),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                let tags = cluster.connection_to_tags(Some(connection));
                if Arc::ptr_eq(&tags, connection) {
                    return Ok((Cow::Borrowed(connection), Cow::Borrowed(session)));
                }
                let tags_session = tags.session()?;
                Ok((Cow::Owned(tags), Cow::Owned(tags_session)))
            }
        }
    }

    /// A connection by which to invalidate tags: a connected one, if there is any.
    pub(crate) fn to_tags(&self) -> Arc<Connection> {
        match self {
            Self::One(connections) => {
                connections.iter().find(|connection| connection.is_connected()).unwrap_or(&connections[0]).clone()
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.connection_to_tags(None),
        }
    }

    /// A connection to each server: a connected one, if there is any.
    pub(crate) fn one_of_each_server(&self) -> Vec<Arc<Connection>> {
        match self {
            Self::One(_) => vec![self.to_tags()],
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.one_of_each_node(),
        }
    }

    /// Every connection.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        match self {
            Self::One(connections) => connections.clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.connections(),
        }
    }

    /// Every connection to the server of `connection`.
    pub(crate) fn beside(
        &self,
        #[cfg_attr(not(feature = "cluster"), expect(unused_variables))] connection: &Arc<Connection>,
    ) -> Vec<Arc<Connection>> {
        match self {
            Self::One(connections) => connections.clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.connections_beside(connection),
        }
    }

    /// Returns once the topology shows every server that has keys.
    pub(crate) fn look_until_every_server_is_shown(&self) -> BoxFuture<'static, ()> {
        match self {
            Self::One(_) => Box::pin(ready(())),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                let cluster = cluster.clone();
                Box::pin(async move { cluster.look_until_every_node_is_shown().await })
            }
        }
    }

    /// Whether the topology shows every server that has keys, as far as is known.
    #[cfg_attr(not(feature = "cluster"), expect(clippy::unused_async))]
    pub(crate) async fn shows_every_server(&self) -> bool {
        match self {
            Self::One(_) => true,
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.shows_every_node_at_last().await,
        }
    }

    /// Returns once the server is connected; in a cluster, once all servers are.
    pub(crate) async fn wait_connected(&self) {
        match self {
            Self::One(connections) => {
                select_all(connections.iter().map(|connection| Box::pin(connection.wait_connected()))).await;
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.wait_connected().await,
        }
    }
}
