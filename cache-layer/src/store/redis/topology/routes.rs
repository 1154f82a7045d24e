//! Which server an operation goes to: the only one, or a node of a cluster.

use std::{borrow::Cow, sync::Arc};

use futures_util::future::select_all;

#[cfg(feature = "cluster")]
use super::cluster::Cluster;
use crate::store::redis::connection::{handle::Connection, session::Session};
use crate::{key::Key, store::StoreError};

#[derive(Debug)]
pub(crate) enum Topology {
    /// Connections to one server.
    One(Vec<Arc<Connection>>),
    #[cfg(feature = "cluster")]
    Cluster(Arc<Cluster>),
}

/// A connection, and the session that it has.
pub(crate) type Route<'a> = (Cow<'a, Arc<Connection>>, Cow<'a, Arc<Session>>);

impl Topology {
    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    pub(crate) fn of_key(&self, key: &Key) -> Cow<'_, Arc<Connection>> {
        match self {
            Self::One(connections) => Cow::Borrowed(&connections[usize::from(key.id().primary[0]) % connections.len()]),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => Cow::Owned(cluster.connection(key)),
        }
    }

    /// The connection by which tags are read that judge an entry read over `session`. Where it can be, it is the same one,
    /// so that what it says of an entry and of its tags is in order.
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

    /// A connection to invalidate tags by: a living one if there is any.
    pub(crate) fn to_tags(&self) -> Arc<Connection> {
        match self {
            Self::One(connections) => {
                connections.iter().find(|connection| connection.is_connected()).unwrap_or(&connections[0]).clone()
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.connection_to_tags(None),
        }
    }

    /// A connection to each server: a living one where there is any.
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

    /// Every connection to the server that `connection` leads to.
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

    /// Returns once the server is connected; in a cluster, all of them.
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
