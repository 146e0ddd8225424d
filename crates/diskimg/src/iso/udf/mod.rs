//! Reading UDF (ECMA-167, OSTA UDF 1.02 to 2.60).
use crate::host::source::Source;
use crate::iso::IsoLimits;
use crate::iso::node::{Entry, FileTree, Node};
use crate::vocabulary::error::Result;
use serde::Serialize;
use std::sync::Arc;
/// What UDF says of itself.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct UdfInfo {
    /// Label.
    pub label: String,
}
#[derive(Debug)]
pub(crate) struct UdfVolume(UdfInfo, Node);
impl UdfVolume {
    pub(crate) fn info(&self) -> &UdfInfo {
        &self.0
    }
}
pub(crate) fn open(_: Arc<dyn Source>, _: &IsoLimits) -> Result<Option<UdfVolume>> {
    Ok(None)
}
impl FileTree for UdfVolume {
    fn root(&self) -> Result<Node> {
        Ok(self.1.clone())
    }
    fn read_dir(&self, _: &Node) -> Result<Vec<Entry>> {
        Ok(Vec::new())
    }
}
