//! `diskimg`: convert and inspect disk images, with qemu-img's command line.
//!
//! ```text
//!   argv ─▶ args/      what was typed  ─▶  what it means (a job)
//!                                              │
//!           commands/  one file a verb  ◀──────┘  calls the library
//!                          │
//!           output/        └▶ human text, JSON, progress; the two streams
//! ```

mod app;
mod args;
mod commands;
mod failure;
mod interrupt;
mod output;

fn main() -> std::process::ExitCode {
    app::run(std::env::args_os().collect())
}
