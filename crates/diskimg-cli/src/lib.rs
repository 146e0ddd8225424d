//! `diskimg`: convert and inspect disk images, with qemu-img's command line.
//!
//! ```text
//!   argv ─▶ args/      what was args  ─▶  what it means (a job)
//!                                              │
//!           commands/  one file a verb  ◀──────┘  calls the library
//!                          │
//!           output/        └▶ human text, JSON, progress; the two streams
//! ```
//!
//! A library, so that other programs can carry the very command: [`run`] is all of
//! it, and [`main()`] is for a process that is nothing else. To work with images, use the `diskimg` library instead.

mod app;
mod args;
mod commands;
mod confine;
mod failure;
mod interrupt;
mod output;

pub use app::{main, run};
