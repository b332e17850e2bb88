//! Everything that talks to the API server: finding it, the objects of a session and their life, and exec.
//!
//! | module | owns |
//! |---|---|
//! | [`kubeconfig`], [`env`], [`http_proxy`] | which API server, as whom, by which way |
//! | [`yaml`] | errors of what a user wrote, without quoting it |
//! | [`client`], [`api_error`] | one request: its deadline, its typed failure |
//! | [`options`], [`manifest`], [`patch`], [`names`], [`label`], [`peer`], [`quantity`], [`policy`], [`agents`] | the objects, pure |
//! | [`rights`], [`identity`], [`upload`], [`start`], [`wait`], [`failure`], [`service`], [`network_policy`] | from nothing to a running agent |
//! | [`lease`], [`watch`], [`follow`], [`crash_log`] | while it runs, and why it stopped |
//! | [`end`], [`footprint`], [`sweep`] | removing it, now or later |
//! | [`exec`], [`port_forward`], [`messages`] | a command in the pod, or a port of it, as a byte pipe |
//! | [`upstream`] | from the targets of `forward` to what is dialled |
//! | [`offer`] | what there is to name, for completion |
//! | [`upgrade`], [`pod_security`], [`start::rehearsal`] | what would be in a session's way, for `doctor` |
//!
//! It knows no session, no stream and no terminal.

pub mod agent;
pub mod agents;
mod answer;
pub mod api_error;
pub mod client;
mod crash_log;
pub mod end;
pub mod env;
pub mod exec;
pub mod failure;
mod follow;
pub mod footprint;
pub mod http_proxy;
pub mod identity;
pub mod kubeconfig;
pub mod label;
pub mod lease;
pub mod manifest;
pub mod messages;
pub mod names;
mod network_policy;
pub mod offer;
pub mod options;
pub mod patch;
pub mod peer;
pub mod pod_security;
mod policy;
pub mod port_forward;
pub mod quantity;
pub mod rights;
pub mod service;
pub mod start;
pub mod sweep;
pub mod upgrade;
mod upload;
pub mod upstream;
pub mod wait;
pub mod watch;
mod websocket;
pub mod yaml;
