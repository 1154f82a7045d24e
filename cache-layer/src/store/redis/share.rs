//! Which part of the data a server has.

use redis::{RedisResult, aio::MultiplexedConnection};

#[cfg(feature = "cluster")]
use super::cluster::Node;
use crate::store::Scope;

#[derive(Debug)]
pub(super) enum Share {
    Everything,
    /// The slots that it has at this moment.
    #[cfg(feature = "cluster")]
    Slots(Node),
}

impl Share {
    /// Tells it from the other servers of the same data set.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Everything => "",
            #[cfg(feature = "cluster")]
            Self::Slots(node) => node.name(),
        }
    }

    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Self::Everything)
    }

    /// Something was not where it was looked for, or nobody was there.
    pub(super) fn misses(&self) {
        match self {
            Self::Everything => {}
            #[cfg(feature = "cluster")]
            Self::Slots(node) => node.misses(),
        }
    }

    /// An error if the server has its data but may not serve it.
    #[cfg_attr(not(feature = "cluster"), expect(clippy::needless_pass_by_ref_mut))]
    pub(super) async fn is_served(
        &self,
        #[cfg_attr(not(feature = "cluster"), expect(unused_variables))] connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        match self {
            Self::Everything => Ok(()),
            #[cfg(feature = "cluster")]
            Self::Slots(_) => super::cluster::is_well(connection).await,
        }
    }

    /// A connection to the server that has the tags, for the keeper of `own`. Where that is another server, it is waited
    /// for: at a start, all of them are connected to at the same time.
    #[cfg_attr(not(feature = "cluster"), expect(clippy::unused_async))]
    pub(super) async fn connection_to_tags(&self, own: &MultiplexedConnection) -> RedisResult<MultiplexedConnection> {
        match self {
            Self::Everything => Ok(own.clone()),
            #[cfg(feature = "cluster")]
            Self::Slots(node) if node.has_tags() => Ok(own.clone()),
            #[cfg(feature = "cluster")]
            Self::Slots(node) => node.connection_to_tags().await,
        }
    }

    /// Whether an invalidation of `scope` is for this server.
    pub(super) fn covers(
        &self,
        #[cfg_attr(not(feature = "cluster"), expect(unused_variables))] scope: Scope<'_>,
    ) -> bool {
        match self {
            Self::Everything => true,
            #[cfg(feature = "cluster")]
            Self::Slots(node) => match scope {
                Scope::Key(key) => node.has_key(key),
                Scope::Tags(_) | Scope::Everything => node.has_tags(),
            },
        }
    }
}
