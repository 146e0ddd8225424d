//! The inner loops, one at a time: where a change of a few lines shows.
//!
//! `cargo bench -p diskimg-benches` runs all, `… -- codecs` some.

mod codecs;
mod maps;
mod opening;
mod reads;
mod samples;
mod zeros;

fn main() {
    divan::main();
}
