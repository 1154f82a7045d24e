//! Which server has what: routes, and a cluster's slots and nodes.
//!
//! - [`routes`]: which connection an operation takes
//! - [`cluster`], [`slots`]: the nodes of a cluster, and which of them has which slots

#[cfg(feature = "cluster")]
pub(crate) mod cluster;
#[cfg(all(test, feature = "cluster"))]
pub(crate) mod cluster_tests;
pub(crate) mod routes;
#[cfg(feature = "cluster")]
pub(crate) mod slots;
