//! Which connection an operation takes.

use std::sync::Arc;

use futures_util::future::select_all;

#[cfg(feature = "cluster")]
use super::cluster::Cluster;
use super::{
    link::{Link, Live},
    pending::Pending,
};
#[cfg(feature = "cluster")]
use crate::store::Scope;
use crate::{key::Key, pattern::Pattern, store::StoreError};

#[derive(Debug)]
pub(super) enum Routes {
    /// Connections to one server.
    One(Vec<Arc<Link>>),
    #[cfg(feature = "cluster")]
    Cluster(Arc<Cluster>),
}

impl Routes {
    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    pub(super) fn of_key(&self, key: &Key) -> Arc<Link> {
        match self {
            Self::One(links) => links[usize::from(key.id().primary[0]) % links.len()].clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.link(key),
        }
    }

    /// The connection by which tags are read that judge an entry read over `live`. Where it can be, it is the same one,
    /// so that what it says of an entry and of its tags is in order.
    pub(super) fn of_tags_beside(
        &self,
        link: &Arc<Link>,
        live: &Arc<Live>,
    ) -> Result<(Arc<Link>, Arc<Live>), StoreError> {
        match self {
            Self::One(_) => Ok((link.clone(), live.clone())),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                let tags = cluster.link_to_tags(Some(link));
                let tags_live = if Arc::ptr_eq(&tags, link) { live.clone() } else { tags.live()? };
                Ok((tags, tags_live))
            }
        }
    }

    /// A connection to invalidate tags by: a living one if there is any.
    pub(super) fn to_tags(&self) -> Arc<Link> {
        match self {
            Self::One(links) => links.iter().find(|link| link.is_live()).unwrap_or(&links[0]).clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.link_to_tags(None),
        }
    }

    /// A connection to each server: a living one where there is any.
    pub(super) fn one_of_each_server(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(_) => vec![self.to_tags()],
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.one_of_each_node(),
        }
    }

    /// Keeps a pattern that could not be deleted. Not every server of a cluster is told when one of them is back, so that
    /// there it becomes an invalidation of everything, which one server can be told.
    pub(super) fn keep(&self, pattern: &Pattern, pending: &Pending) {
        match self {
            Self::One(_) => pending.add_pattern(pattern),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => pending.add(Scope::Everything),
        }
    }

    /// Every connection.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(links) => links.clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.links(),
        }
    }

    /// Every connection to the server that `link` leads to.
    pub(super) fn beside(
        &self,
        #[cfg_attr(not(feature = "cluster"), expect(unused_variables))] link: &Arc<Link>,
    ) -> Vec<Arc<Link>> {
        match self {
            Self::One(links) => links.clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.links_beside(link),
        }
    }

    /// Returns once the server is connected; in a cluster, all of them.
    pub(super) async fn wait_connected(&self) {
        match self {
            Self::One(links) => {
                select_all(links.iter().map(|link| Box::pin(link.wait_connected()))).await;
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.wait_connected().await,
        }
    }
}
