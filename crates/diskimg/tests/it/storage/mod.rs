//! Tests of storage: output files, the page cache, memory maps, faults.

mod caching;
mod faults;
mod mapped;
mod output;
mod remote;
