//! Tests of command-line arguments.

mod config;
mod grammar;
pub(crate) mod help;
mod limits;
mod nodes;
mod words;
