//! qcow2.
mod allocator;
mod extensions;
mod header;
mod measure;
mod options;
mod tables;
mod target;
use crate::vocabulary::format::Driver;
pub(crate) static DRIVER: Driver = Driver {
    name: "qcow2",
    probe: |_| false,
    sector: 512,
    open: |_, _| Err(crate::Error::unsupported("not yet")),
    create: target::create,
    options: options::OPTIONS,
    measure: Some(measure::measure),
};
