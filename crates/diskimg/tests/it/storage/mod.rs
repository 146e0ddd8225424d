//! Tests of storage: output files, the page cache, memory maps, faults.

mod caching;
mod faults;
mod lost_connections;
mod mapped;
mod output;
mod places;
mod remote;
mod replacing;
