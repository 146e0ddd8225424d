//! `inspect`: checks whether an untrusted image is safe to accept.

use crate::args::advice;
use crate::args::common::OutputFormat;
use crate::args::inspect::Job;
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, human, json};
use crate::remote::Server;
use diskimg::Inspection;
use diskimg::open::{OpenMode, local_path};

/// Exit code for an unsafe image; 1 means that there is no verdict.
const UNSAFE: u8 = 2;

/// Inspects the image.
pub(super) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    // No other file is opened, whatever the image refers to.
    let found = match &job.server {
        Some(server) => inspect_server(server, job)?,
        None => {
            let path = local_path(&job.path).map_err(|e| e.in_file(&job.path))?;
            confine::restrict_files(&Rules::new().allow_read([path]))?;
            diskimg::inspect(&job.path, &job.options)
        }
    };
    let found = found.map_err(|error| match advice::of(&job.path) {
        Some(advice) if job.path != *"-" => error.hint(advice),
        _ => error,
    })?;
    if !job.quiet {
        match job.output {
            OutputFormat::Human => console.print(&human::inspection(&found))?,
            OutputFormat::Json => json::print(console, &found)?,
        }
    }
    Ok(if found.is_safe() { 0 } else { UNSAFE })
}

/// Inspects the image on a server.
fn inspect_server(server: &Server, job: &Job) -> Result<diskimg::Result<Inspection>, Failure> {
    confine::restrict_files(&Rules::new().allow_servers(&server.files()))?;
    let mut mode = OpenMode::default();
    mode.metadata_only = true;
    mode.max_copied = Some(job.options.max_copied());
    let protocols = server.protocols();
    let Some(protocol) = protocols.get(server.url.scheme()) else {
        return Err(Failure::error(format!("Unknown protocol '{}'", server.url.scheme())));
    };
    let source = protocol.open(&server.location(), &mode);
    let source = source.map_err(|e| e.in_file(server.name()))?;
    Ok(diskimg::inspect_source(source, server.name(), &job.options))
}
