//! The results, and their rendering.

pub(crate) mod chart;
pub(crate) mod markdown;

use crate::args::Fsync;
use crate::contenders::{Contender, Role};
use crate::stats::pairwise_ratio;
use serde::Serialize;

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) machine: String,
    pub(crate) diskimg: String,
    pub(crate) qemu_img: String,
    pub(crate) runs: u32,
    pub(crate) fsync: Fsync,
    /// Size of the ext4 image in bytes.
    pub(crate) size: u64,
    /// Size of the files in it in bytes.
    pub(crate) files: u64,
    /// Smallest peak memory that can be measured, in bytes.
    pub(crate) own_peak: Option<u64>,
    pub(crate) notes: Vec<String>,
    pub(crate) places: Vec<PlaceReport>,
}

/// The results in one directory.
#[derive(Debug, Serialize)]
pub(crate) struct PlaceReport {
    pub(crate) dir: String,
    pub(crate) file_system: String,
    pub(crate) cells: Vec<CellReport>,
}

/// The results of a cell.
#[derive(Debug, Serialize)]
pub(crate) struct CellReport {
    pub(crate) name: String,
    pub(crate) contenders: Vec<Contender>,
    /// Time of the codecs alone on all cores, in seconds, for each round.
    pub(crate) codecs: Vec<f64>,
    /// Why the cell was not measured.
    pub(crate) failure: Option<String>,
}

impl CellReport {
    /// Returns the report of a cell whose input could not be created.
    pub(crate) fn without_input(name: &str, failure: String) -> Self {
        let (contenders, codecs) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), contenders, codecs, failure: Some(failure) }
    }

    /// Returns the contender with this role, if it was measured.
    pub(crate) fn with(&self, role: Role) -> Option<&Contender> {
        self.contenders.iter().find(|c| c.role == role && !c.runs.is_empty())
    }

    /// Returns the speed relative to qemu-img.
    pub(crate) fn speed_up(&self, contender: &Contender) -> Option<f64> {
        pairwise_ratio(&contender.walls(), &self.with(Role::Reference)?.walls())
    }

    /// Returns the time relative to the floor.
    pub(crate) fn above_floor(&self, contender: &Contender) -> Option<f64> {
        let floor = self.with(Role::Floor).map_or_else(|| self.codecs.clone(), Contender::walls);
        pairwise_ratio(&floor, &contender.walls())
    }
}

impl Contender {
    /// Returns the wall-clock times of all runs, in seconds.
    pub(crate) fn walls(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.wall).collect()
    }
}
