//! Compressing clusters, as qcow2 and QCOW version 1 store them.

use crate::error::{Error, Result};
use crate::model::extent::Encoded;
use crate::model::target::{UnitEncoder, append_filled};
use crate::storage::codec::{Codec, Encoder};

/// Compresses clusters. Clusters that do not become smaller are stored uncompressed.
#[derive(Debug)]
pub(crate) struct ClusterEncoder {
    /// Codec of the compressed units that are accepted as stored; `None` if none are.
    passes: Option<Codec>,
    encoder: Encoder,
}

impl ClusterEncoder {
    /// Returns an encoder of this codec with this level; `None` for the default level.
    pub(crate) fn of(codec: Codec, encoder: Encoder, level: Option<u32>) -> Box<dyn UnitEncoder> {
        // Units that were compressed elsewhere may have another level.
        let passes = level.is_none().then_some(codec);
        Box::new(Self { passes, encoder: encoder.at_level(level) })
    }

    /// Returns an encoder of deflate streams with a window of 4 KiB.
    pub(crate) fn deflate(level: Option<u32>) -> Box<dyn UnitEncoder> {
        Self::of(Codec::Deflate, Encoder::deflate_4k_window(), level)
    }
}

impl UnitEncoder for ClusterEncoder {
    fn encode(&mut self, _at: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        self.encoder
            .encode(unit, unit.len(), out)
            .map_err(|e| Error::io("cannot compress a cluster", e))
    }

    fn passes(&self, unit: &Encoded) -> bool {
        // Compressed data must be smaller than a cluster.
        Some(unit.codec) == self.passes && u64::from(unit.stored) < unit.unit.end - unit.unit.start
    }

    fn pass(
        &mut self,
        _at: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        append_filled(len, fill, out)
    }
}
