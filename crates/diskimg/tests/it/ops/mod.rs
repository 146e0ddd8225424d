//! Tests of the operations.

mod convert;
mod inspect;
mod map;
mod measure;
mod resize;
