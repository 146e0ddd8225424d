//! zisofs.
use crate::host::source::Source;
use crate::iso::IsoLimits;
use crate::iso::node::ZisofsForm;
use crate::vocabulary::error::{Error, Result};
use std::io;
use std::sync::Arc;
#[derive(Debug)]
pub(crate) struct ZisofsSource(#[allow(dead_code)] Arc<dyn Source>);
impl ZisofsSource {
    pub(crate) fn new(_: Arc<dyn Source>, _: ZisofsForm, _: &IsoLimits) -> Result<Self> {
        Err(Error::unsupported("zisofs"))
    }
}
impl Source for ZisofsSource {
    fn len(&self) -> u64 {
        0
    }
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Ok(())
    }
}
