//! The `diskimg` command: converts and inspects disk images, with a command line compatible with
//! qemu-img.
//!
//! ```text
//!   argv ─▶ args/      parses and validates arguments, giving a job
//!             │        (settings/: defaults from a file and the environment)
//!             │
//!             ▼
//!           commands/  one file per command: runs the job with the library
//!             │
//!             ▼
//!           output/    text, JSON and progress on standard output and standard error
//! ```
//!
//! This crate is a library so that other programs can include the command: [`run`] runs it in any
//! process, [`main()`] in a process of its own. [`Confinement`] is the command's sandbox for other
//! programs. To work with images, use the `diskimg` library.

mod app;
mod args;
mod commands;
mod confine;
mod failure;
mod interrupt;
mod memory;
mod output;
mod remedy;
mod remote;
mod settings;
mod streams;

pub use app::{main, run};
pub use confine::Confinement;
pub use memory::ReservingAllocator;
pub use streams::ClosedStreams;
