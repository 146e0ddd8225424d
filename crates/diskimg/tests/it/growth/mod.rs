//! The work of every operation grows no faster than its input.

mod parsers;
mod tables;
