//! `compare`: whole conversions by diskimg and by other tools, side by side.
//!
//! Times are told, never judged: what counts is the ratio of two tools on the
//! same machine, in the same minute, on the same input.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod cells;
mod contenders;
mod floor;
mod inputs;
mod interrupt;
mod machine;
mod measure;
mod populate;
mod report;
mod sequence;
mod stats;
mod tools;
mod workplace;

use anyhow::{Context, Result};
use args::{Args, Hidden};
use clap::Parser;
use report::{Comparison, PlaceReport};
use std::path::Path;

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Hidden::CodecFloor(work)) = &args.hidden {
        println!("{}", floor::codec_seconds(work)?);
        return Ok(());
    }
    let cells = cells::select(&args.cells);
    if args.list {
        for cell in &cells {
            println!("{}", cell.name);
        }
        return Ok(());
    }
    interrupt::watch();
    let comparison = compare(&args, &cells)?;
    println!("{}", report::markdown::render(&comparison));
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&comparison)?)?;
    }
    if let Some(path) = &args.svg {
        write(path, &report::chart::render(&comparison))?;
    }
    Ok(())
}

/// All cells in all places.
fn compare(args: &Args, cells: &[cells::Cell]) -> Result<Comparison> {
    let tools = tools::Tools::find(args.diskimg.as_deref())?;
    let mut places: Vec<PlaceReport> = Vec::new();
    let mut made: Option<workplace::Workplace> = None;
    for dir in args.dirs() {
        let place = workplace::Workplace::new(&dir, args)?;
        let inputs = inputs::Inputs::new(&place, args, made.as_ref());
        places.push(sequence::run(args, &tools, &place, &inputs, cells)?);
        made.get_or_insert(place);
    }
    Ok(Comparison {
        machine: machine::describe(),
        diskimg: tools.diskimg_version.clone(),
        qemu_img: tools.qemu_img_version.clone(),
        runs: args.runs,
        fsync: args.fsync,
        size: args.size,
        files: args.file_bytes(),
        own_peak: machine::own_peak(),
        notes: tools.absent(),
        places,
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
