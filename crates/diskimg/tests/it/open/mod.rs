//! Tests of opening: the policy for external files, limits, known vulnerabilities,
//! protocols.

pub(crate) mod external_files;
mod known_vulnerabilities;
mod limits;
mod probing;
mod protocols;
