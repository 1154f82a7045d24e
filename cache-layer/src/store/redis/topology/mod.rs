//! The topology: which server has which keys.
//!
//! - [`routes`]: the choice of a connection for an operation
//! - [`cluster`], [`slots`]: the nodes of a cluster, and which of them has which slots

#[cfg(feature = "cluster")]
pub(crate) mod cluster;
#[cfg(all(test, feature = "cluster"))]
pub(crate) mod cluster_tests;
pub(crate) mod routes;
#[cfg(feature = "cluster")]
pub(crate) mod slots;
