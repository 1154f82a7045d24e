//! Which part of the data a server has.

use redis::{RedisResult, aio::MultiplexedConnection};

use crate::store::Scope;
#[cfg(feature = "cluster")]
use crate::store::redis::topology::cluster::Node;

#[derive(Debug)]
pub(crate) enum Share {
    Everything,
    /// The slots that it has at this moment.
    #[cfg(feature = "cluster")]
    Slots(Node),
}

impl Share {
    /// Tells it from the other servers of the same data set.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Everything => "",
            #[cfg(feature = "cluster")]
            Self::Slots(node) => node.name(),
        }
    }

    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::Everything)
    }

    /// Something was not where it was looked for, or nobody was there.
    pub(crate) fn refresh_topology(&self) {
        match self {
            Self::Everything => {}
            #[cfg(feature = "cluster")]
            Self::Slots(node) => node.refresh_topology(),
        }
    }

    /// An error if the server has its data but may not serve it.
    #[cfg_attr(not(feature = "cluster"), expect(clippy::needless_pass_by_ref_mut))]
    pub(crate) async fn is_served(
        &self,
        #[cfg_attr(not(feature = "cluster"), expect(unused_variables))] driver: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        match self {
            Self::Everything => Ok(()),
            #[cfg(feature = "cluster")]
            Self::Slots(_) => crate::store::redis::topology::cluster::is_well(driver).await,
        }
    }

    /// A connection to the server that has the tags, for the keeper of `own`. Where that is another server, it is waited
    /// for: at a start, all of them are connected to at the same time.
    #[cfg_attr(not(feature = "cluster"), expect(clippy::unused_async))]
    pub(crate) async fn connection_to_tags(&self, own: &MultiplexedConnection) -> RedisResult<MultiplexedConnection> {
        match self {
            Self::Everything => Ok(own.clone()),
            #[cfg(feature = "cluster")]
            Self::Slots(node) if node.has_tags() => Ok(own.clone()),
            #[cfg(feature = "cluster")]
            Self::Slots(node) => node.connection_to_tags().await,
        }
    }

    /// Whether an invalidation of `scope` is for this server.
    pub(crate) fn covers(
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
