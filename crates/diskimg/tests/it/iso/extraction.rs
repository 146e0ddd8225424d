//! Extraction into directories that hold something already, and the guards around it.
