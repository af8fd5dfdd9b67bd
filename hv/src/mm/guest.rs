//! Access to guest memory.
