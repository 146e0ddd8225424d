//! The command line: its grammar, and --limit.

mod grammar;
mod limits;
