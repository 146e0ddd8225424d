//! Runs cells one after another, and the contenders of each cell in alternation.

use crate::args::Args;
use crate::cells::Cell;
use crate::contenders::{Contender, Role, Task, output_in};
use crate::floor::{self, Floor};
use crate::inputs::{Form, Inputs};
use crate::interrupt;
use crate::machine;
use crate::measure::{self, timed};
use crate::report::{CellReport, PlaceReport};
use crate::tools::{Tools, command};
use crate::workplace::Workplace;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Runs all cells in one directory.
pub(crate) fn run(
    args: &Args,
    tools: &Tools,
    place: &Workplace,
    inputs: &Inputs,
    cells: &[Cell],
) -> Result<PlaceReport> {
    let mut reports = Vec::new();
    for cell in cells {
        if interrupt::is_requested() {
            break;
        }
        let source = match inputs.ready(cell.source) {
            Ok(source) => source,
            Err(_) if interrupt::is_requested() => break,
            Err(error) => {
                reports.push(CellReport::without_input(cell.name, format!("{error:#}")));
                continue;
            }
        };
        eprintln!("{}: {} ...", place.label, cell.name);
        let output = output_in(&place.path, cell.format);
        let task = Task { cell, tools, fsync: args.fsync, source: &source, output: &output };
        match run_cell(args, &task) {
            Ok(report) => reports.push(report),
            // What was measured before the signal is reported.
            Err(_) if interrupt::is_requested() => break,
            Err(error) => return Err(error),
        }
    }
    let file_system = machine::file_system(&place.path);
    Ok(PlaceReport { dir: place.label.clone(), file_system, cells: reports })
}

fn run_cell(args: &Args, task: &Task<'_>) -> Result<CellReport> {
    let mut contenders = task.contenders();
    for contender in &mut contenders {
        interrupt::check()?;
        if let Err(error) = warm_up(contender, task) {
            interrupt::check()?;
            contender.failure = Some(format!("{error:#}"));
            // Without diskimg, there is nothing to compare.
            if contender.role == Role::Ours {
                break;
            }
        }
    }
    let ours_runs = contenders.iter().all(|c| c.role != Role::Ours || c.failure.is_none());
    let mut codecs = Vec::new();
    for _ in 0..if ours_runs { args.runs } else { 0 } {
        round(&mut contenders, task)?;
        if let (Floor::Codecs(encode), false) = (task.cell.floor, args.no_floor) {
            codecs.push(floor::measure(task.source, task.cell.source, encode)?);
        }
    }
    contenders.retain(|c| c.failure.is_some() || !c.runs.is_empty());
    Ok(CellReport { name: task.cell.name.to_owned(), contenders, codecs, failure: None })
}

/// Measures one run of each contender.
fn round(contenders: &mut [Contender], task: &Task<'_>) -> Result<()> {
    for contender in contenders.iter_mut().filter(|c| c.failure.is_none()) {
        interrupt::check()?;
        match with_output(task.output, || timed(&mut contender.command())) {
            Ok(run) => contender.runs.push(run),
            Err(error) => contender.failure = Some(format!("{error:#}")),
        }
    }
    interrupt::check()
}

/// Runs a contender without measuring, to fill caches and verify its output.
fn warm_up(contender: &mut Contender, task: &Task<'_>) -> Result<()> {
    with_output(task.output, || {
        timed(&mut contender.command())?;
        contender.output = Some(measure::size(task.output)?);
        verify(task, contender.output_format)
    })
}

/// Runs `work`, deleting the output before and after, which also discards its dirty pages.
fn with_output<T>(output: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _ = std::fs::remove_file(output);
    let outcome = work();
    let _ = std::fs::remove_file(output);
    outcome
}

/// Verifies that source and output have the same contents.
fn verify(task: &Task<'_>, output_format: &str) -> Result<()> {
    let formats = ["-f", task.cell.source.format(), "-F", output_format];
    // For a VHDX of 16 TiB, qemu-img takes longer than ten minutes.
    if !(task.cell.source == Form::Huge && output_format == "vhdx") {
        let mut compare = command("qemu-img");
        compare.arg("compare").args(formats).arg(task.source).arg(task.output);
        let compared = compare.output().context("cannot run qemu-img")?;
        match compared.status.code() {
            Some(0) => return Ok(()),
            Some(1) => bail!("WRONG OUTPUT: {}", String::from_utf8_lossy(&compared.stdout).trim()),
            _ => {}
        }
    }
    // qemu-img may not support the image; compare with diskimg instead.
    let mut compare = command(&task.tools.diskimg);
    compare.arg("compare").args(formats).arg(task.source).arg(task.output);
    let compared = compare.output()?;
    if !compared.status.success() {
        bail!("WRONG OUTPUT: {}", String::from_utf8_lossy(&compared.stdout).trim());
    }
    Ok(())
}
