//! Benchmarks of the inner loops.
//!
//! `cargo bench -p diskimg-benches` runs all, `cargo bench -p diskimg-benches -- codecs` some.

mod codecs;
mod maps;
mod opening;
mod reads;
mod samples;
mod zeros;

fn main() {
    divan::main();
}
