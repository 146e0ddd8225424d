//! Tests of command-line arguments.

#[cfg(unix)]
mod config;
mod grammar;
pub(crate) mod help;
mod limits;
mod nodes;
mod words;
