//! `serve`: exports a disk by the NBD protocol.

use crate::args::serve::{Address, Job};
use crate::confine::{self, Calls, Rules};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{self, Console};
use crate::remedy;
use diskimg::{Error, GuestWriter, Image};
use diskimg_remote::nbd::server::{Listener, Server};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

/// Different errors of the image that are reported.
const MAX_REPORTED: usize = 16;

/// Listens, before the process loses the right to.
pub(super) fn listen(job: &mut Job) -> Result<(), Failure> {
    output::require_streams(Some(&job.input.path), !job.quiet)?;
    let listener = match &job.address {
        Address::Socket(path) => Listener::unix(path)?,
        Address::Port(address, port) => {
            let address = SocketAddr::new(*address, *port);
            Listener::tcp(address).map_err(|e| e.in_file(address.to_string()))?
        }
    };
    job.listener = Some(listener);
    if let Some(path) = &job.pid_file {
        let written = fs::write(path, format!("{}\n", std::process::id()));
        written.map_err(|e| {
            remove_socket(job);
            Error::io("cannot write the process ID", e).in_file(path)
        })?;
    }
    Ok(())
}

/// Returns the system calls of the command.
pub(super) fn calls(job: &Job) -> Calls {
    let calls = if job.writable { Calls::modify() } else { Calls::read().and_spool() };
    calls.and_serve()
}

/// Serves clients until a signal ends the command.
pub(super) fn run(mut job: Job, console: &Console) -> Result<u8, Failure> {
    let served = serve(&mut job, console);
    remove_socket(&job);
    if let Some(path) = &job.pid_file {
        let _ = fs::remove_file(path);
    }
    served.map(|()| 0)
}

fn remove_socket(job: &Job) {
    if let Address::Socket(path) = &job.address {
        let _ = fs::remove_file(path);
    }
}

fn serve(job: &mut Job, console: &Console) -> Result<(), Failure> {
    let Some(listener) = job.listener.take() else { return Ok(()) };
    let server = open(job, console)?;
    let (program, colors) = (console.program(), console.colors());
    let reported = Mutex::new(BTreeSet::new());
    let report = move |error: &Error| {
        let message = remedy::message(error);
        let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < MAX_REPORTED && reported.insert(message.clone()) {
            Console::new(program).with_colors(colors).error(&message);
        }
    };
    let server = server
        .export_name(&*job.export_name)
        .description(&*job.description)
        .connections(job.connections)
        .once(job.once)
        .on_error(report);
    interrupt::watch();
    if !job.quiet {
        console.print(&format!("{}\n", listener.uri(&job.export_name)))?;
    }
    Ok(server.serve(&listener, &interrupt::requested)?)
}

/// Opens the image, and restricts the process to the files that are needed from then on.
fn open(job: &Job, console: &Console) -> Result<Server, Failure> {
    let rules = cleanup_rules(job);
    if !job.writable {
        let image = confine::open(&rules, &[&job.input], || job.input.open(console.program()))?;
        console.warn(image.warnings());
        let bitmaps = job.bitmaps.iter().map(|name| image.dirty_bitmap(name));
        let bitmaps = bitmaps.collect::<Result<_, _>>()?;
        return Ok(Server::new(image).bitmaps(bitmaps));
    }
    let path = &job.input.path;
    let while_opened = rules.clone().allow_input(&job.input);
    confine::restrict_files(&while_opened.allow_modify(path, job.input.external_files))?;
    let disk = GuestWriter::open(path, &job.input.options_for(console.program()))?;
    let image = disk.image();
    console.warn(image.warnings());
    confine::restrict_files(&store_rules(rules.allow_overwrite(path), &image))?;
    // Rather than when a client flushes what it has written.
    disk.verify_storable()?;
    Ok(Server::writable(disk))
}

/// Returns rules that also allow what storing needs: opening the image's own files again to
/// overwrite them, and reading those of its backing chain.
fn store_rules(rules: Rules, image: &Image) -> Rules {
    image.layers().enumerate().fold(rules, |rules, (depth, layer)| {
        let paths = layer.files().iter().filter_map(|file| file.path());
        match depth {
            0 => paths.fold(rules, |rules, path| rules.allow_overwrite(path)),
            _ => rules.allow_read(paths),
        }
    })
}

/// Returns rules that allow removing what [`listen`] has created.
fn cleanup_rules(job: &Job) -> Rules {
    let socket = match &job.address {
        Address::Socket(path) => Some(path),
        Address::Port(..) => None,
    };
    let created = socket.into_iter().chain(&job.pid_file);
    created.fold(Rules::new(), |rules, path| rules.allow_remove(path))
}
