//! Which connection an operation takes.

use std::sync::Arc;

use super::link::{Link, Live};
use crate::{key::Key, store::StoreError};

#[derive(Debug)]
pub(super) enum Routes {
    /// Connections to one server.
    One(Vec<Arc<Link>>),
}

impl Routes {
    /// The connection of `key`: always the same one, so that what is done with a key stays in order.
    pub(super) fn of_key(&self, key: &Key) -> Arc<Link> {
        match self {
            Self::One(links) => pick(links, key).clone(),
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
        }
    }

    /// A connection to invalidate tags by: a living one if there is any.
    pub(super) fn to_tags(&self) -> Arc<Link> {
        match self {
            Self::One(links) => any(links).clone(),
        }
    }

    /// Every connection.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(links) => links.clone(),
        }
    }
}

fn pick<'a>(links: &'a [Arc<Link>], key: &Key) -> &'a Arc<Link> {
    &links[usize::from(key.id().primary[0]) % links.len()]
}

fn any(links: &[Arc<Link>]) -> &Arc<Link> {
    links.iter().find(|link| link.is_live()).unwrap_or(&links[0])
}
