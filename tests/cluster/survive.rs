//! What a session survives: lost and cut lines, a sleeping laptop, a path that alters bytes, the agent's own end.
//!
//! Each test has traffic both ways (`harness/traffic.rs`) that spans the fault and must not notice it. Faults of the
//! cluster itself are in `faults.rs`, which runs alone.

mod agent_gone;
mod asleep;
mod black_hole;
mod control;
mod cuts;
mod hold;
mod path;
mod planned;
