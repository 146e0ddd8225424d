//! Tests of command-line arguments.

mod grammar;
mod limits;
mod nodes;
