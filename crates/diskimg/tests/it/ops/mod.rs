//! Operations.

mod convert;
mod inspect;
mod map;
mod measure;
