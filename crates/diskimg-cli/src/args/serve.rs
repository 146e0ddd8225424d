//! Arguments of `serve`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use crate::remote::NetworkArgs;
use diskimg_remote::nbd::server::Listener;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  diskimg serve -k /tmp/disk.sock disk.vmdk
  diskimg serve -p 10809 -x disk disk.qcow2
  diskimg serve -k /tmp/disk.sock -w -f qcow2 disk.qcow2

Clients are nbdcopy, QEMU, guestfish and nbd-client. There is no authentication and no encryption.";

/// Maximum length of the name of an export and of its description.
const MAX_TEXT: usize = 4096;

/// Export a disk by the NBD protocol.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<OsString>,
    /// Format of FILE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Listen on this socket, which is created
    #[arg(short = 'k', long, value_name = "SOCKET", value_hint = clap::ValueHint::FilePath)]
    socket: Option<PathBuf>,
    /// Listen on this TCP port (0: any)
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// Address of the port (127.0.0.1)
    #[arg(
        long_help = "Address of the port; default: 127.0.0.1, which only this machine can reach"
    )]
    #[arg(short, long, value_name = "ADDRESS", requires = "port")]
    bind: Option<IpAddr>,
    /// Allow writing; requires -f
    #[arg(short, long)]
    writable: bool,
    /// Name of the export (default: empty)
    #[arg(short = 'x', long, value_name = "NAME", default_value = "", hide_default_value = true)]
    export_name: String,
    /// Text about the export
    #[arg(short = 'D', long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Snapshot to export
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Dirty bitmap to export; repeatable
    #[arg(short = 'B', long = "bitmap", value_name = "NAME", action = clap::ArgAction::Append)]
    bitmaps: Vec<String>,
    /// Maximum number of clients (16)
    #[arg(long_help = "Maximum number of clients at the same time; default: 16")]
    #[arg(short = 'e', long, alias = "shared", value_name = "N", default_value = "16")]
    #[arg(hide_default_value = true)]
    connections: NonZeroUsize,
    /// End when the last client has gone
    #[arg(long)]
    once: bool,
    /// Write the process ID to FILE
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pid_file: Option<PathBuf>,
    /// Do not print the URI
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// Where to listen.
#[derive(Debug)]
pub(crate) enum Address {
    /// `-k`.
    Socket(PathBuf),
    /// `-p` and `-b`.
    Port(IpAddr, u16),
}

/// What to export, and how.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image.
    pub(crate) input: Input,
    /// `-k`, `-p`, `-b`.
    pub(crate) address: Address,
    /// The socket, which listens once the process has been prepared.
    pub(crate) listener: Option<Listener>,
    /// `-w`.
    pub(crate) writable: bool,
    /// `-x`.
    pub(crate) export_name: String,
    /// `-D`.
    pub(crate) description: String,
    /// `-B`.
    pub(crate) bitmaps: Vec<String>,
    /// `-e`.
    pub(crate) connections: NonZeroUsize,
    /// `--once`.
    pub(crate) once: bool,
    /// `--pid-file`.
    pub(crate) pid_file: Option<PathBuf>,
    /// `-q`.
    pub(crate) quiet: bool,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let usage = |message: &str| Failure::usage("serve", message);
        let file = common::single_file("serve", self.files)?;
        let address = match (self.socket, self.port) {
            (Some(_), Some(_)) => return Err(usage("-k and -p are mutually exclusive")),
            (Some(socket), None) => Address::Socket(socket),
            (None, Some(port)) => {
                Address::Port(self.bind.unwrap_or(Ipv4Addr::LOCALHOST.into()), port)
            }
            (None, None) => return Err(usage("where to listen must be given (-k or -p)")),
        };
        if self.export_name.len() > MAX_TEXT || self.description.len() > MAX_TEXT {
            return Err(usage("the name and the description have at most 4096 bytes"));
        }
        let policy = self.image_args.policy()?.with_network(self.network_args);
        let mut input = Input::new(&file, self.format.as_deref(), &policy)?;
        if self.writable {
            if self.snapshot.is_some() || !self.bitmaps.is_empty() {
                return Err(usage("-l and -B export what is only read, without -w"));
            }
            input = input.into_file()?;
            if input.format.is_none() {
                return Err(usage("-w requires the format of the image (-f)"));
            }
        }
        input.options = input.options.snapshot(common::snapshot(self.snapshot.as_deref())?);
        Ok(Parsed::Job(Job {
            input,
            address,
            listener: None,
            writable: self.writable,
            export_name: self.export_name,
            description: self.description,
            bitmaps: self.bitmaps,
            connections: self.connections,
            once: self.once,
            pid_file: self.pid_file,
            quiet: self.quiet,
        }))
    }
}
