//! `compare`: benchmarks of whole conversions by diskimg and other tools.
//!
//! The result that counts is the ratio of two tools on the same machine, at the same time, on the
//! same input.

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
mod reflink;
mod report;
mod sequence;
mod stats;
mod tools;
mod workplace;

use anyhow::{Context, Result, ensure};
use args::{Args, Hidden};
use cells::Cell;
use clap::Parser;
use inputs::{Form, Inputs};
use report::{Comparison, PlaceReport};
use std::path::Path;
use std::process::ExitCode;
use tools::Tools;
use workplace::Workplace;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    interrupt::watch();
    match &args.hidden {
        Some(Hidden::CodecFloor(work)) => {
            println!("{}", floor::codec_seconds(work)?);
            return Ok(());
        }
        Some(Hidden::MakeInput(spec)) => return spec.create(),
        None => {}
    }
    let cells = cells::select(&args.cells);
    if args.list {
        for cell in &cells {
            println!("{}", cell.name);
        }
        return Ok(());
    }
    let comparison = compare(args, cells)?;
    println!("{}", report::markdown::render(&comparison));
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&comparison)?)?;
    }
    if let Some(path) = &args.svg {
        write(path, &report::chart::render(&comparison))?;
    }
    Ok(())
}

/// Runs all cells in all directories.
fn compare(args: &Args, cells: Vec<Cell>) -> Result<Comparison> {
    let (sharing, ordinary): (Vec<_>, Vec<_>) =
        cells.into_iter().partition(|c| c.sharing.is_some());
    ensure!(
        args.reflink || !ordinary.is_empty(),
        "no cell matches (reflink cells require --reflink)"
    );
    let tools = Tools::find(args.diskimg.as_deref())?;
    let mut notes = tools.missing();
    if ordinary.iter().any(|cell| cell.source == Form::Huge || cell.source == Form::HugeQcow2) {
        notes.push(
            "The 16 TiB disk has 15 TiB on file systems with a smaller file size limit (ext4)."
                .into(),
        );
    }
    let mut places = Vec::new();
    let mut made: Option<Workplace> = None;
    for dir in args.dirs() {
        let place = Workplace::new(&dir, dir.display().to_string(), args)?;
        let inputs = Inputs::new(&place, args, made.as_ref());
        places.push(sequence::run(args, &tools, &place, &inputs, &ordinary)?);
        let first = made.get_or_insert(place);
        for kind in reflink::Kind::ALL.into_iter().filter(|_| args.reflink) {
            match run_mounted(args, &tools, kind, &dir, first, &sharing) {
                Ok(report) => places.push(report),
                Err(error) => notes.push(format!("No {kind:?} in {}: {error:#}.", dir.display())),
            }
            if interrupt::is_requested() {
                break;
            }
        }
        if interrupt::is_requested() {
            notes.push("Interrupted: the remaining cells were not measured.".into());
            break;
        }
    }
    places.retain(|place| !place.cells.is_empty());
    Ok(Comparison {
        machine: machine::describe(),
        diskimg: tools.diskimg_version,
        qemu_img: tools.qemu_img_version,
        runs: args.runs,
        fsync: args.fsync,
        size: args.size,
        files: args.file_bytes(),
        own_peak: machine::own_peak(),
        notes,
        places,
    })
}

/// Runs cells on a file system that is created and mounted for them.
fn run_mounted(
    args: &Args,
    tools: &Tools,
    kind: reflink::Kind,
    dir: &Path,
    made: &Workplace,
    cells: &[Cell],
) -> Result<PlaceReport> {
    // Space for two inputs and an output, with a margin.
    let mounted = reflink::Mounted::new(kind, dir, 5 * args.file_bytes() + (1 << 30))?;
    let place = Workplace::new(mounted.path(), format!("a file in {}", dir.display()), args)?;
    let inputs = Inputs::new(&place, args, Some(made));
    sequence::run(args, tools, &place, &inputs, cells)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
