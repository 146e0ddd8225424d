//! The commands: each runs its job and returns the exit code.

mod check;
mod compare;
mod convert;
mod create;
mod info;
mod inspect;
mod iso;
mod manual;
mod map;
mod measure;
mod resize;
mod xorriso;

use crate::args::Command;
use crate::failure::Failure;
use crate::output::Console;

/// Runs a command.
pub(crate) fn run(command: Command, console: &Console) -> Result<u8, Failure> {
    match command {
        Command::Convert(job) => convert::run(job, console),
        Command::Info(job) => info::run(&job, console),
        Command::Inspect(job) => inspect::run(&job, console),
        Command::Map(job) => map::run(&job, console),
        Command::Create(job) => create::run(job, console),
        Command::Compare(job) => compare::run(&job, console),
        Command::Check(job) => check::run(&job, console),
        Command::Measure(job) => measure::run(&job, console),
        Command::Resize(job) => resize::run(&job, console),
        Command::IsoShow(job) => iso::show::run(&job, console),
        Command::IsoLs(job) => iso::ls::run(&job, console),
        Command::IsoCat(job) => iso::cat::run(&job, console),
        Command::IsoExtract(job) => iso::extract::run(&job, console),
        Command::IsoVerify(job) => iso::verify::run(&job, console),
        Command::IsoDiff(job) => iso::diff::run(&job, console),
        Command::IsoRemaster(job) => iso::remaster::run(&job, console),
        Command::IsoCreate(recipe) => iso::build::run(*recipe, console),
        Command::Xorriso(job) => xorriso::run(&job, console),
        Command::Completions(shell) => manual::completions(shell, console),
        Command::Man(dir) => manual::man(dir.as_deref(), console),
    }
}
