//! What was measured, and how it is told.

pub(crate) mod chart;
pub(crate) mod markdown;

use crate::args::Fsync;
use crate::contenders::{Contender, Role};
use crate::stats::pairwise_ratio;
use serde::Serialize;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) machine: String,
    pub(crate) diskimg: String,
    pub(crate) qemu_img: String,
    pub(crate) runs: u32,
    pub(crate) fsync: Fsync,
    /// Of the ext4 image.
    pub(crate) size: u64,
    /// Bytes of files in it.
    pub(crate) files: u64,
    /// The least peak that can be told.
    pub(crate) own_peak: Option<u64>,
    pub(crate) notes: Vec<String>,
    pub(crate) places: Vec<PlaceReport>,
}

/// One folder's cells.
#[derive(Debug, Serialize)]
pub(crate) struct PlaceReport {
    pub(crate) dir: String,
    pub(crate) file_system: String,
    pub(crate) cells: Vec<CellReport>,
}

/// One conversion.
#[derive(Debug, Serialize)]
pub(crate) struct CellReport {
    pub(crate) name: String,
    pub(crate) contenders: Vec<Contender>,
    /// Seconds that the codecs alone take, on all cores, round by round.
    pub(crate) codecs: Vec<f64>,
    /// Why there is nothing.
    pub(crate) failure: Option<String>,
}

impl CellReport {
    /// A cell whose input could not be made.
    pub(crate) fn without_input(name: &str, failure: String) -> Self {
        let (contenders, codecs) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), contenders, codecs, failure: Some(failure) }
    }

    /// Whoever has this role and has run.
    pub(crate) fn with(&self, role: Role) -> Option<&Contender> {
        self.contenders.iter().find(|c| c.role == role && !c.runs.is_empty())
    }

    /// How many times as fast as qemu-img.
    pub(crate) fn speed_up(&self, contender: &Contender) -> Option<f64> {
        pairwise_ratio(&contender.walls(), &self.with(Role::Reference)?.walls())
    }

    /// How many times the floor's time.
    pub(crate) fn above_floor(&self, contender: &Contender) -> Option<f64> {
        let floor = self.with(Role::Floor).map_or_else(|| self.codecs.clone(), Contender::walls);
        pairwise_ratio(&floor, &contender.walls())
    }
}

impl Contender {
    /// Seconds of all counted runs.
    pub(crate) fn walls(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.wall).collect()
    }
}
