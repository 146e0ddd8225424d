//! Tests of conversion.

mod existing;
mod in_place;
mod levels;
mod max_size;
mod packed;
mod pass_through;
mod read_back;
mod scale;
mod sharing;
