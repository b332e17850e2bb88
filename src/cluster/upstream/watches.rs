//! Keeps [`PodGroup`]s up to date while it is held.

use tokio::task::JoinSet;

use super::PodGroup;
use crate::cluster::client::ApiServer;

/// The running watches; dropping it ends them.
#[derive(Debug)]
pub struct Watches {
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Watches what the groups need: a watch for each selector, or one for a whole namespace with many.
    pub fn start<'a>(server: &ApiServer, groups: impl IntoIterator<Item = &'a PodGroup>) -> Self {
        todo!()
    }
}
