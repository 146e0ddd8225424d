//! vmdk.
use crate::vocabulary::format::Driver;
pub(crate) static DRIVER: Driver = Driver {
    name: "vmdk",
    probe: |_| false,
    sector: 512,
    open: |_, _| Err(crate::Error::unsupported("not yet")),
    create: |_| Err(crate::Error::unsupported("not yet")),
    options: &[],
    measure: None,
};
