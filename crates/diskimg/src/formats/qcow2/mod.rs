//! qcow2.
use crate::vocabulary::format::Driver;
pub(crate) static DRIVER: Driver = Driver {
    name: "qcow2",
    probe: |_| false,
    sector: 512,
    open: |_, _| Err(crate::Error::unsupported("not yet")),
    create: |_| Err(crate::Error::unsupported("not yet")),
    options: &[],
    measure: None,
};
