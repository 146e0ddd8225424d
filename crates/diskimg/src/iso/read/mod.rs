//! Reading ISO 9660: descriptors, directories, Rock Ridge, Joliet.
