//! Tests of OVA and OVF.

pub(crate) mod hostile;
mod integrity;
mod reading;
mod writing;
