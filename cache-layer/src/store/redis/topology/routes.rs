//! Which connection an operation takes.

use std::{borrow::Cow, sync::Arc};

use futures_util::future::select_all;

#[cfg(feature = "cluster")]
use super::cluster::Cluster;
#[cfg(feature = "cluster")]
use crate::store::Scope;
use crate::store::redis::{
    connection::link::{Link, Live},
    tracking::pending::Pending,
};
use crate::{key::Key, pattern::Pattern, store::StoreError};

#[derive(Debug)]
pub(crate) enum Routes {
    /// Connections to one server.
    One(Vec<Arc<Link>>),
    #[cfg(feature = "cluster")]
    Cluster(Arc<Cluster>),
}

/// A link, and the connection that it has.
pub(crate) type Way<'a> = (Cow<'a, Arc<Link>>, Cow<'a, Arc<Live>>);

impl Routes {
    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    pub(crate) fn of_key(&self, key: &Key) -> Cow<'_, Arc<Link>> {
        match self {
            Self::One(links) => Cow::Borrowed(&links[usize::from(key.id().primary[0]) % links.len()]),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => Cow::Owned(cluster.link(key)),
        }
    }

    /// The connection by which tags are read that judge an entry read over `live`. Where it can be, it is the same one,
    /// so that what it says of an entry and of its tags is in order.
    pub(crate) fn of_tags_beside<'a>(&self, link: &'a Arc<Link>, live: &'a Arc<Live>) -> Result<Way<'a>, StoreError> {
        match self {
            Self::One(_) => Ok((Cow::Borrowed(link), Cow::Borrowed(live))),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => {
                let tags = cluster.link_to_tags(Some(link));
                if Arc::ptr_eq(&tags, link) {
                    return Ok((Cow::Borrowed(link), Cow::Borrowed(live)));
                }
                let tags_live = tags.live()?;
                Ok((Cow::Owned(tags), Cow::Owned(tags_live)))
            }
        }
    }

    /// A connection to invalidate tags by: a living one if there is any.
    pub(crate) fn to_tags(&self) -> Arc<Link> {
        match self {
            Self::One(links) => links.iter().find(|link| link.is_live()).unwrap_or(&links[0]).clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.link_to_tags(None),
        }
    }

    /// A connection to each server: a living one where there is any.
    pub(crate) fn one_of_each_server(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(_) => vec![self.to_tags()],
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.one_of_each_node(),
        }
    }

    /// Keeps a pattern that could not be deleted. Not every server of a cluster is told when one of them is back, so that
    /// there it becomes an invalidation of everything, which one server can be told.
    pub(crate) fn keep(&self, pattern: &Pattern, pending: &Pending) {
        match self {
            Self::One(_) => pending.add_pattern(pattern),
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => pending.add(Scope::Everything),
        }
    }

    /// Every connection.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(links) => links.clone(),
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.links(),
        }
    }

    /// Every connection to the server that `link` leads to.
    pub(crate) fn beside(
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
    pub(crate) async fn wait_connected(&self) {
        match self {
            Self::One(links) => {
                select_all(links.iter().map(|link| Box::pin(link.wait_connected()))).await;
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(cluster) => cluster.wait_connected().await,
        }
    }
}
