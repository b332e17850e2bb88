//! The number both ends compare first. It does not negotiate: plugin and agent are one release.

/// Version of everything in this crate. It grows by one with each change that an older end would misread.
pub const WIRE_VERSION: u16 = 4;

/// Version of the software, told to the other end for messages such as "agent 0.1.0 speaks wire 1".
pub const SOFTWARE_VERSION: &str = env!("CARGO_PKG_VERSION");
