//! The commands: each runs its job and returns the exit code.

mod amend;
mod bench;
mod bitmap;
mod check;
mod commit;
mod compare;
mod config;
mod convert;
mod create;
mod dd;
mod first_block;
mod info;
mod inspect;
mod iso;
mod ls;
mod manual;
mod map;
mod measure;
mod preflight;
mod rebase;
mod resize;
#[cfg(feature = "nbd")]
mod serve;
mod snapshot;
mod xorriso;

use crate::args::Command;
use crate::args::common::Input;
use crate::args::convert as convert_args;
use crate::args::dd as dd_args;
use crate::args::iso::diff::Side;
use crate::args::map::Job as Map;
use crate::args::measure::Subject;
use crate::args::recipe;
use crate::args::snapshot::Action;
use crate::confine::{Calls, Extract};
use crate::failure::Failure;
use crate::output::Console;
use crate::remote::{Connections, Server};
use diskimg::OpenOptions;
use diskimg::storage::output::Destination;
use std::path::{Path, PathBuf};

/// Does what a command must do before the process is sandboxed.
pub(crate) fn prepare(command: &mut Command) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "nbd")]
        Command::Serve(job) => serve::listen(job),
        _ => Ok(()),
    }
}

/// Returns the system calls of a command.
pub(crate) fn calls(command: &Command) -> Calls {
    calls_for_files(command)
        .and_network(connects(command, Connections::Internet))
        .and_unix_sockets(connects(command, Connections::Unix))
        .and_clusters(connects(command, Connections::Cluster))
}

/// Returns true if the command reads or writes an image on a server to which it connects in this way.
fn connects(command: &Command, by: Connections) -> bool {
    let is_url = |input: &Input| input.connects(by);
    let is_server = |server: &Server| Connections::of(&server.url) == by;
    match command {
        Command::Convert(job) => {
            job.inputs.iter().any(is_url) || job.output.server().is_some_and(is_server)
        }
        Command::Info(job) => job.inputs.iter().any(is_url),
        Command::Inspect(job) => job.server.as_ref().is_some_and(is_server),
        Command::Preflight(job) => is_url(&job.input),
        Command::Map(job) => is_url(&job.input),
        Command::Ls(job) => is_url(&job.input) || job.disk.as_deref().is_some_and(is_url),
        Command::Compare(job) => is_url(&job.a) || is_url(&job.b),
        Command::Check(job) => is_url(&job.input),
        Command::Measure(job) => match &job.subject {
            Subject::Image(input) => is_url(input),
            _ => false,
        },
        Command::Dd(job) => is_url(&job.input) || job.output.server().is_some_and(is_server),
        #[cfg(feature = "nbd")]
        Command::Serve(job) => is_url(&job.input),
        Command::IsoShow(job) => is_url(&job.input.input),
        Command::IsoLs(job) => is_url(&job.input.input),
        Command::IsoCat(job) => is_url(&job.input.input),
        Command::IsoExtract(job) => is_url(&job.input.input),
        Command::IsoVerify(job) => is_url(&job.input.input),
        Command::IsoRemaster(job) => is_url(&job.input.input),
        Command::IsoDiff(job) => job.sides.iter().any(|side| match side {
            Side::Image(image) => is_url(&image.input),
            _ => false,
        }),
        _ => false,
    }
}

fn calls_for_files(command: &Command) -> Calls {
    match command {
        Command::Convert(job) if job.dry_run => Calls::modify().and_spool(),
        Command::Convert(job) => match &job.output {
            convert_args::Destination::New(path) => {
                Calls::create(path).and_options(&job.options).and_spool()
            }
            convert_args::Destination::Existing(_) => Calls::modify().and_spool(),
            convert_args::Destination::NewOn(_) if job.resume.is_some() => {
                Calls::create_files().and_spool()
            }
            convert_args::Destination::NewOn(_) | convert_args::Destination::ExistingOn(_) => {
                Calls::read().and_spool()
            }
            convert_args::Destination::Stdout => Calls::write_stdout().and_spool(),
        },
        Command::Create(job) if job.dry_run => Calls::modify(),
        Command::Create(job) => Calls::create(&job.path).and_options(&job.options),
        Command::Dd(job) => match &job.output {
            dd_args::Destination::File(path) => Calls::create(path).and_options(&job.options),
            dd_args::Destination::Server(_) => Calls::read(),
        }
        .and_spool(),
        Command::Resize(job) if job.may_have_parts => {
            Calls { attributes: true, ..Calls::create_files() }
        }
        Command::Resize(_) | Command::Rebase(_) | Command::Commit(_) => Calls::modify(),
        #[cfg(feature = "nbd")]
        Command::Serve(job) => serve::calls(job),
        Command::Bench(job) if job.pattern.is_some() => Calls::modify(),
        Command::Amend(job) if job.options.is_some() => Calls::modify(),
        Command::Bitmap(_) => Calls::modify().and_spool(),
        Command::Snapshot(job) if job.action != Action::List => Calls::modify(),
        Command::IsoExtract(job) => Calls::extract(Extract {
            owners: job.options.owners,
            special_modes: job.options.special_modes,
            devices: job.options.devices,
        })
        .and_spool(),
        Command::IsoRemaster(job) => image_calls(&job.output).and_spool(),
        Command::IsoCreate(recipe) if recipe.dry_run => Calls::modify(),
        Command::IsoCreate(recipe) => image_calls(&recipe.output),
        Command::Map(Map { html: Some(page), .. }) => image_calls(page).and_spool(),
        Command::Xorriso(job) => xorriso::calls(job).and_spool(),
        Command::Check(job) if job.backup.is_some() => Calls::create_files(),
        Command::Check(job) if job.repair.is_some() => Calls::modify(),
        Command::IsoCat(_) => Calls::write_stdout().and_spool(),
        // Files in a directory, which is made.
        Command::Man(Some(_)) => Calls { create: true, ..Calls::extract(Extract::default()) },
        Command::Man(None) | Command::Completions(_) | Command::Config(_) => Calls::read(),
        Command::Info(_)
        | Command::Inspect(_)
        | Command::Preflight(_)
        | Command::Map(_)
        | Command::Ls(_)
        | Command::Compare(_)
        | Command::Check(_)
        | Command::Measure(_)
        | Command::Snapshot(_)
        | Command::Bench(_)
        | Command::Amend(_)
        | Command::IsoShow(_)
        | Command::IsoLs(_)
        | Command::IsoVerify(_)
        | Command::IsoDiff(_) => Calls::read().and_spool(),
    }
}

/// Returns the calls of a command that writes a file that is no disk image.
fn image_calls(output: &recipe::Destination) -> Calls {
    match output {
        recipe::Destination::File(path) => Calls::create(path),
        recipe::Destination::Stdout => Calls::write_stdout(),
    }
}

/// Returns the files of the first `depth` layers of an image, as far as it can be opened: the
/// operation reports any error.
fn files_of_chain(options: &OpenOptions, path: &Path, depth: usize) -> Vec<PathBuf> {
    if Destination::of(path).is_err() {
        return Vec::new();
    }
    let Ok(image) = options.clone().force_share(true).open(path) else { return Vec::new() };
    let layers = image.layers().take(depth);
    let files = layers.flat_map(|layer| layer.files());
    files.filter_map(|file| file.path()).map(Path::to_owned).collect()
}

/// Runs a command.
pub(crate) fn run(command: Command, console: &Console) -> Result<u8, Failure> {
    match command {
        Command::Convert(job) => convert::run(job, console),
        Command::Info(job) => info::run(&job, console),
        Command::Inspect(job) => inspect::run(&job, console),
        Command::Preflight(job) => preflight::run(&job, console),
        Command::Map(job) => map::run(&job, console),
        Command::Ls(job) => ls::run(&job, console),
        Command::Create(job) => create::run(job, console),
        Command::Compare(job) => compare::run(&job, console),
        Command::Check(job) => check::run(&job, console),
        Command::Measure(job) => measure::run(&job, console),
        Command::Resize(job) => resize::run(&job, console),
        Command::Dd(job) => dd::run(job, console),
        #[cfg(feature = "nbd")]
        Command::Serve(job) => serve::run(job, console),
        Command::Bench(job) => bench::run(&job, console),
        Command::Rebase(job) => rebase::run(&job, console),
        Command::Commit(job) => commit::run(&job, console),
        Command::Snapshot(job) => snapshot::run(&job, console),
        Command::Amend(job) => amend::run(&job, console),
        Command::Bitmap(job) => bitmap::run(&job, console),
        Command::IsoShow(job) => iso::show::run(&job, console),
        Command::IsoLs(job) => iso::ls::run(&job, console),
        Command::IsoCat(job) => iso::cat::run(&job, console),
        Command::IsoExtract(job) => iso::extract::run(&job, console),
        Command::IsoVerify(job) => iso::verify::run(&job, console),
        Command::IsoDiff(job) => iso::diff::run(&job, console),
        Command::IsoRemaster(job) => iso::remaster::run(&job, console),
        Command::IsoCreate(recipe) => iso::build::run(*recipe, console),
        Command::Xorriso(job) => xorriso::run(&job, console),
        Command::Config(settings) => config::run(&settings, console),
        Command::Completions(shell) => manual::completions(shell, console),
        Command::Man(dir) => manual::man(dir.as_deref(), console),
    }
}
